"""Latency: the last hop of the raw transcript, batch 1, ids forced; this strategy and its rivals in one process.

Each block runs every strategy once, in random order. A total carries no stage events; stages come from a repeat of
their own in the same block. Every repeat is kept.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

from avpbench.agents import Agent, Opened, Speak
from avpbench.cell import Cell
from avpbench.chain import run_chain
from avpbench.core import AgentState, Prefix, Prompt, Turn
from avpbench.engine.batch import Start
from avpbench.engine.engine import Speech
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import ConfigError
from avpbench.links.direct import Direct
from avpbench.links.shared import Shared
from avpbench.meter import Stages, total
from avpbench.progress import progress
from avpbench.records import Journal, LatencyRecord
from avpbench.strategies.raw import Raw
from avpbench.strategies.strategy import Strategy

_PROBLEMS = 8  # blocks go round this many transcripts
_GREEDY = Sampling()


@final
@dataclass(frozen=True, slots=True)
class Timing:
    """What is timed. `prefix_tokens` None: the transcript's own; `new_tokens` is the receiver's prompt, cut or repeated
    to this length where the strategy hands over a prefix of tokens (None: its own)."""

    repeats: int
    warmup: int
    new_tokens: int | None
    prefix_tokens: int | None
    aa: bool

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.warmup < 0:
            raise ConfigError(f"latency.repeats must be >= 1 and warmup >= 0, got {self.repeats} and {self.warmup}")
        for name in ("new_tokens", "prefix_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"latency.{name} must be >= 1 or null, got {value}")


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


def run(cell: Cell, strategies: Sequence[Strategy], timing: Timing, journal: Journal, stopping: Callable[[], bool]) -> None:
    """Times the blocks that the journal does not hold yet, this process's warm-up not counted."""
    entrants = [(s, False) for s in strategies] + ([(strategies[0], True)] if timing.aa else [])
    first = 1 + max((row["block"] for row in journal.read()), default=-1)
    hops: dict[tuple[int, str], LastHop] = {}
    with progress("latency", timing.repeats, min(first, timing.repeats)) as advance:
        for block in range(first - timing.warmup, timing.repeats) if first < timing.repeats else ():
            if stopping():
                raise KeyboardInterrupt
            index = max(block, 0) % min(_PROBLEMS, cell.num_samples)
            order = list(entrants)
            random.Random(f"{cell.settings.seed}/{block}").shuffle(order)
            for strategy in strategies:
                if (index, strategy.kind) not in hops:
                    hops[index, strategy.kind] = last_hop(cell, strategy, index, timing.prefix_tokens)
            for place, (strategy, aa) in enumerate(order):
                for record in repeat(hops[index, strategy.kind], timing, block, place, aa):
                    if block >= first:
                        journal.append(record)
            if block >= first:
                advance(1)


def last_hop(cell: Cell, strategy: Strategy, index: int, prefix_tokens: int | None) -> LastHop:
    """The last sender of the raw transcript, replayed through this strategy's own hops."""
    prompts, jobs = cell.prompts(index), cell.jobs([index])
    raw = cell.through(Raw(), Shared())
    ahead = len(raw.agents) - 1
    spoken = run_chain(raw.agents[:ahead], [prompts[:ahead]], jobs[:ahead])[0]
    through = cell.through(strategy, Shared())
    state = spoken.state
    if prefix_tokens is not None:
        state = sized(through.agents[-2], state, prefix_tokens)
    elif strategy.kind != Raw.kind:
        forced = cell.jobs([index], [(*spoken.new_ids, ())])[:ahead]
        state = run_chain(through.agents[:ahead], [prompts[:ahead]], forced)[0].state
    return LastHop(strategy, through.agents[-2], through.agents[-1], state, prompts[-1], cell.task.problem(index).id)


def sized(sender: Agent, state: AgentState, num_tokens: int) -> AgentState:
    """A state of exactly this many tokens: the transcript's ids, repeated or cut; its words are what they decode to."""
    ids = _repeated([i for i in state.token_ids if i >= 0], num_tokens)
    caches, _ = sender.engine.prefill([Start(Prefix(), ids)])
    turn = Turn(state.turn.role, "", sender.engine.decode(ids))
    return AgentState(state.spec, ids, None, caches[0], turn, state.question, None)


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
    start = opened.start
    common = {
        "block": block, "order": order, "strategy": hop.strategy.kind, "sample_id": hop.sample_id, "aa": aa,
        "prefix_tokens": len(start.prefix.token_ids), "new_tokens": len(start.prompt_ids), "wire_bytes": out.wire_bytes,
        "process": f"{os.getpid()}",
    }  # fmt: skip
    clocks = (("host", host, None), ("handoff", handoff, None), ("device", resident, None), ("stages", staged, stages.seconds()))
    return [LatencyRecord(clock=name, seconds=one.seconds, stages_s=spent, **common) for name, one, spent in clocks]  # type: ignore[arg-type]


def first_token(agent: Agent, message: object, prompt: Prompt, new_tokens: int | None, stages: Stages | None = None) -> Opened:
    """Opens the message and brings the first token's id to the host."""
    opened = agent.receive(message, prompt, stages)  # type: ignore[arg-type]
    start = opened.start
    if new_tokens is not None and start.prefix.token_ids:
        start = Start(start.prefix, _repeated(start.prompt_ids, new_tokens))
        opened = Opened(start, opened.received)
    job = Speak((Speech(1, generator("latency")),), _GREEDY)
    agent.act([opened], [prompt], job, stages)
    return opened
