"""Latency: the last hop of the raw transcript, batch 1, ids forced; this strategy and its rivals in one process.

Each block runs every strategy once, in random order. A total carries no stage events; stages come from a repeat of
their own in the same block. Every repeat is kept.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

from avpbench.agents import Agent, Opened, Speak
from avpbench.cell import Cell
from avpbench.checks import whole
from avpbench.core import AgentState, Prefix, Prompt, Turn
from avpbench.engine.batch import Start
from avpbench.engine.engine import NOTHING, Speech
from avpbench.engine.sampling import Sampling, generator
from avpbench.links.direct import Direct
from avpbench.links.link import Message
from avpbench.links.shared import Shared
from avpbench.meter import NO_STAGES, AnyStages, Stages, total
from avpbench.phases.replay import raw_transcript, replayed
from avpbench.progress import progress
from avpbench.records import CLOCKS, Journal, LatencyRecord, whole_blocks
from avpbench.strategies.strategy import Strategy

_PROBLEMS = 8  # blocks go round this many transcripts
_GREEDY = Sampling()
_PROCESS = uuid.uuid4().hex[:12]


@final
@dataclass(frozen=True, slots=True)
class Timing:
    """What is timed. `prefix_tokens` None: the transcript's own; `new_tokens` is the receiver's prompt, cut or repeated
    to this length (None: its own)."""

    repeats: int
    warmup: int
    new_tokens: int | None
    prefix_tokens: int | None
    aa: bool

    def __post_init__(self) -> None:
        whole("latency.repeats", self.repeats, 1)
        whole("latency.warmup", self.warmup, 0)
        whole("latency.new_tokens", self.new_tokens, 1, null="the prompt's own")
        whole("latency.prefix_tokens", self.prefix_tokens, 1, null="the transcript's own")


@final
@dataclass(frozen=True, eq=False, slots=True)
class LastHop:
    """A sender that has just finished, and what its receiver will be told."""

    strategy: Strategy
    sender: Agent
    receiver: Agent
    state: AgentState
    prompt: Prompt
    sample_id: str


def run(
    cell: Cell, strategies: Sequence[Strategy], timing: Timing, journal: Journal[LatencyRecord], check_stop: Callable[[], None]
) -> None:
    """Times blocks until the journal holds `repeats` whole ones; each transcript is warmed up by each strategy first."""
    entrants = [(s, False) for s in strategies] + ([(strategies[0], True)] if timing.aa else [])
    rows = journal.read()
    missing = max(0, timing.repeats - len(whole_blocks(rows, {(s.label, aa) for s, aa in entrants})))
    first = 1 + max((row.block for row in rows), default=-1)
    hops: dict[int, list[LastHop]] = {}
    with progress("latency", timing.repeats, timing.repeats - missing) as advance:
        for block in range(first, first + missing):
            check_stop()
            index = block % min(_PROBLEMS, cell.num_samples)
            if index not in hops:
                hops[index] = last_hops(cell, strategies, index, timing)
                for hop in hops[index] * timing.warmup:
                    repeat(hop, timing, block, 0, False)
            by_label = {hop.strategy.label: hop for hop in hops[index]}
            order = random.Random(f"{cell.settings.seed}/{block}").sample(entrants, len(entrants))
            records = [r for place, (s, aa) in enumerate(order) for r in repeat(by_label[s.label], timing, block, place, aa)]
            for record in records:
                journal.append(record)
            advance(1)


def last_hops(cell: Cell, strategies: Sequence[Strategy], index: int, timing: Timing) -> list[LastHop]:
    """The last sender of the raw transcript, replayed through each strategy's own hops."""
    spoken = raw_transcript(cell, [index])
    hops = []
    for strategy in strategies:
        through = cell.through(strategy, Shared())
        if timing.prefix_tokens is None:
            state = replayed(cell, strategy, [index], spoken)[0].state
        else:
            state = sized(through.agents[-2], spoken[0].state, timing.prefix_tokens)
        told = cut(cell.prompts(index)[-1], through.agents[-1], timing.new_tokens)
        hops.append(LastHop(strategy, through.agents[-2], through.agents[-1], state, told, cell.task.problem(index).id))
    return hops


def cut(prompt: Prompt, agent: Agent, num_tokens: int | None) -> Prompt:
    """The prompt with its words cut or repeated to this many tokens (None: as it is)."""
    if num_tokens is None:
        return prompt
    return replace(prompt, words=agent.engine.decode(_repeated(agent.engine.template.encode(prompt.words), num_tokens)))


def sized(sender: Agent, state: AgentState, num_tokens: int) -> AgentState:
    """A state of exactly this many tokens: the transcript's ids, repeated or cut; its words are what they decode to."""
    ids = _repeated([i for i in state.token_ids if i >= 0], num_tokens)
    read = sender.engine.prefill([Start(Prefix(), ids)], sender.strategy.needs)
    turn = Turn(state.turn.role, "", sender.engine.decode(ids))
    return AgentState(state.spec, ids, None, read.caches[0], turn, state.question, None, read.captured[0])


def _repeated(ids: Sequence[int], length: int) -> tuple[int, ...]:
    return tuple((list(ids) * (length // len(ids) + 1))[:length])


def repeat(hop: LastHop, timing: Timing, block: int, order: int, aa: bool) -> list[LatencyRecord]:
    """One repeat of every clock."""
    device = hop.receiver.engine.device
    direct = [replace(agent, link=Direct()) for agent in (hop.sender, hop.receiver)]

    with total(device) as handoff:
        out = direct[0].send(hop.state, hop.receiver.engine.spec)
        with total(device) as host:
            opened = first_token(direct[1], out.message, hop.prompt, timing.new_tokens)
    by_reference = hop.sender.send(hop.state, hop.receiver.engine.spec).message
    with total(device) as resident:
        first_token(hop.receiver, by_reference, hop.prompt, timing.new_tokens)
    stages = Stages(device)
    with total(device) as staged:
        message = direct[0].send(hop.state, hop.receiver.engine.spec, stages).message
        first_token(direct[1], message, hop.prompt, timing.new_tokens, stages)
    start, given = opened.start, timing.new_tokens or len(opened.start.prompt_ids)
    common = {
        "block": block, "order": order, "strategy": hop.strategy.label, "sample_id": hop.sample_id, "aa": aa,
        "prefix_tokens": len(start.token_ids) - given, "new_tokens": given, "wire_bytes": out.wire_bytes,
        "process": _PROCESS,
    }  # fmt: skip
    totals = zip(CLOCKS, (host, handoff, resident, staged), (None, None, None, stages.seconds()), strict=True)
    return [LatencyRecord(clock=name, seconds=one.seconds, stages_s=spent, **common) for name, one, spent in totals]  # type: ignore[arg-type]


def first_token(agent: Agent, message: Message, prompt: Prompt, new_tokens: int | None, stages: AnyStages = NO_STAGES) -> Opened:
    """Opens the message and brings the first token's id to the host.

    With `new_tokens`, what follows a prefix of tokens is exactly so long, by ids; where the context comes as text, the
    prompt's words were cut to that, and the chat template's own tokens come on top.
    """
    opened = agent.receive(message, prompt, stages)
    start = opened.start
    if new_tokens is not None and start.prefix.token_ids:
        start = Start(start.prefix, _repeated(start.prompt_ids, new_tokens))
        opened = Opened(start, opened.received)
    agent.act([opened], [prompt], Speak((Speech(1, generator("latency")),), _GREEDY), stages, NOTHING)
    return opened
