"""Latency: the last hop of the raw transcript, batch 1, ids forced; this strategy and its rivals in one process.

Each block runs every strategy once, in random order. A total carries no stage events; stages come from a repeat of
their own in the same block. Every repeat is kept.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, final

import torch

from avpbench.agents import Agent, Opened, Outgoing, Speak
from avpbench.cell import Cell
from avpbench.checks import whole
from avpbench.core import AgentState, Prefix, Prompt, Turn
from avpbench.engine.batch import Start
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import NOTHING
from avpbench.engine.sampling import Sampling, generator
from avpbench.engine.work import work_of
from avpbench.limits import ttft_limit_s
from avpbench.links.link import Arrived
from avpbench.links.shared import Shared
from avpbench.meter import NO_STAGES, AnyStages, Stages, measured_rates, total
from avpbench.phases.replay import raw_transcript, replayed
from avpbench.progress import progress, say
from avpbench.records import CLOCKS, EXPORT, Journal, LatencyRecord, whole_blocks
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


class TimedHop(Protocol):
    """A hop that can be made again and again, wherever its two agents live."""

    @property
    def strategy(self) -> Strategy: ...

    def repeat(self, timing: Timing, block: int, order: int, aa: bool) -> list[LatencyRecord]: ...


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

    def repeat(self, timing: Timing, block: int, order: int, aa: bool) -> list[LatencyRecord]:
        """One repeat of every clock."""
        return repeat(self, timing, block, order, aa)


def run(
    cell: Cell, strategies: Sequence[Strategy], timing: Timing, journal: Journal[LatencyRecord], check_stop: Callable[[], None]
) -> None:
    """Times blocks until the journal holds `repeats` whole ones; each transcript is warmed up by each strategy first."""
    entrants = [(s, False) for s in strategies] + ([(strategies[0], True)] if timing.aa else [])
    rows = journal.read()
    missing = max(0, timing.repeats - len(whole_blocks(rows, {(s.label, aa) for s, aa in entrants})))
    first = 1 + max((row.block for row in rows), default=-1)
    hops: dict[int, Sequence[TimedHop]] = {}
    with progress("latency", timing.repeats, timing.repeats - missing) as advance:
        for block in range(first, first + missing):
            check_stop()
            index = block % min(_PROBLEMS, cell.num_samples)
            if index not in hops:
                hops[index] = timed_hops(cell, strategies, index, timing)
                for hop in [*hops[index]] * timing.warmup:
                    hop.repeat(timing, block, 0, False)
            by_label = {hop.strategy.label: hop for hop in hops[index]}
            order = random.Random(f"{cell.settings.seed}/{block}").sample(entrants, len(entrants))
            records = [r for place, (s, aa) in enumerate(order) for r in by_label[s.label].repeat(timing, block, place, aa)]
            for record in records:
                journal.append(record)
            advance(1)
    for label in sorted({row.strategy for row in journal.read() if row.fell_back}):
        say(f"note: {label} fell back to words in the last hop, and those are no times of it")


def timed_hops(cell: Cell, strategies: Sequence[Strategy], index: int, timing: Timing) -> Sequence[TimedHop]:
    """The last hop of one problem by each strategy, between the processes that the agents live in."""
    if cell.crew is None:
        return last_hops(cell, strategies, index, timing)
    from avpbench.phases.distant import distant_hops  # it builds on this module

    return distant_hops(cell, cell.crew, strategies, index, timing)


def last_hops(cell: Cell, strategies: Sequence[Strategy], index: int, timing: Timing) -> list[LastHop]:
    """The last sender of the raw transcript, replayed through each strategy's own hops."""
    spoken = raw_transcript(cell, [index])
    hops = []
    for strategy in strategies:
        through = cell.through(strategy)
        if timing.prefix_tokens is None:
            state = replayed(cell, strategy, [index], spoken)[0].state
        else:
            said = spoken[0].state
            ids = repeated([i for i in said.token_ids if i >= 0], timing.prefix_tokens)
            state = sized(through.agents[-2], ids, said.turn.role, said.question)
        told = cut(cell.prompts(index)[-1], through.agents[-1], timing.new_tokens)
        hops.append(LastHop(strategy, through.agents[-2], through.agents[-1], state, told, cell.task.problem(index).id))
    return hops


def cut(prompt: Prompt, agent: Agent, num_tokens: int | None) -> Prompt:
    """The prompt with its words cut or repeated to this many tokens (None: as it is)."""
    if num_tokens is None:
        return prompt
    return replace(prompt, words=agent.engine.decode(repeated(agent.engine.template.encode(prompt.words), num_tokens)))


def sized(sender: Agent, ids: tuple[int, ...], role: str, question: str) -> AgentState:
    """A state of exactly these tokens; its words are what they decode to."""
    read = sender.engine.prefill([Start(Prefix(), ids)], sender.strategy.needs)
    turn = Turn(role, "", sender.engine.decode(ids))
    return AgentState(sender.spec, ids, None, read.caches[0], turn, question, None, read.captured[0])


def repeated(ids: Sequence[int], length: int) -> tuple[int, ...]:
    return tuple((list(ids) * (length // len(ids) + 1))[:length])


def repeat(hop: LastHop, timing: Timing, block: int, order: int, aa: bool) -> list[LatencyRecord]:
    """One repeat of every clock."""
    device, link = hop.receiver.engine.device, hop.sender.link.in_process()
    sender, receiver = (replace(agent, link=link) for agent in (hop.sender, hop.receiver))

    with total(device) as handoff:
        out = sender.send(hop.state, receiver.spec)
        arrived = link.fetch(out.message, NO_STAGES)
        with total(device) as host:
            opened = first_token(receiver, arrived, hop.prompt, timing.new_tokens)
    shared = Shared()
    by_reference = replace(sender, link=shared).send(hop.state, receiver.spec).message
    with total(device) as resident:
        first_token(replace(receiver, link=shared), shared.fetch(by_reference, NO_STAGES), hop.prompt, timing.new_tokens)
    stages = Stages(device)
    with total(device) as staged:
        message = sender.send(hop.state, receiver.spec, stages).message
        first_token(receiver, link.fetch(message, stages), hop.prompt, timing.new_tokens, stages)
    start, given = opened.start, timing.new_tokens or len(opened.start.prompt_ids)
    bounds = {"host": _limit_s(hop, start, out.cache_bytes, out.wire_bytes), "device": _limit_s(hop, start, out.cache_bytes, 0)}
    about = Repeated(block, order, hop.strategy.label, hop.sample_id, aa, len(start.token_ids) - given, given, out, bounds)
    records = about.records((host.seconds, handoff.seconds, resident.seconds, staged.seconds), stages.seconds())
    return records if aa else [*records, about.exported(hop)]


def _limit_s(hop: LastHop, start: Start, held_bytes: int, upload_bytes: int) -> float:
    engine = hop.receiver.engine
    rates = measured_rates(engine.device, engine.model.dtype, torch.get_num_threads())
    return ttft_limit_s(work_of(engine), rates, start.span, len(start.token_ids) - start.span, held_bytes, upload_bytes)


def exporting(hop: LastHop, block: int) -> tuple[float, dict[str, float]]:
    """Seconds of the export call and of what its captures add to a pass over the sender's tokens; which pass is first, changes by block."""
    engine, state, needs = hop.sender.engine, hop.state, hop.strategy.needs
    with total(engine.device) as call:
        hop.strategy.export(state, engine, hop.receiver.engine.spec)
    if not needs:
        return call.seconds, {"call": call.seconds}
    whole = Start(Prefix(token_ids=state.token_ids[:-1], soft_NE=state.soft_NE), state.token_ids[-1:])
    passes = {"captured": needs, "bare": NOTHING}
    seconds = {"call": call.seconds}
    for name in sorted(passes, reverse=bool(block % 2)):
        with total(engine.device) as took:
            engine.prefill([whole], passes[name])
        seconds[name] = took.seconds
    return seconds["call"] + seconds["captured"] - seconds["bare"], seconds


@final
@dataclass(frozen=True, slots=True)
class Repeated:
    """What the records of one repeat have in common."""

    block: int
    order: int
    strategy: str
    sample_id: str
    aa: bool
    prefix_tokens: int
    new_tokens: int
    out: Outgoing
    limits_s: Mapping[str, float] = field(default_factory=dict)  # of TTFT, by clock: what this process's measured rates allow

    def records(self, totals_s: Sequence[float], stages_s: dict[str, float]) -> list[LatencyRecord]:
        """A record a clock, in the order of CLOCKS. What the link is charged belongs to the hand-off, not to its receiver."""
        charged = self.out.modelled_s
        records = []
        for clock, seconds in zip(CLOCKS, totals_s, strict=True):
            more = charged if clock in ("handoff", "stages") else None
            records.append(self._record(clock, seconds + (more or 0.0), stages_s if clock == "stages" else None, more))
        return records

    def exported(self, hop: LastHop) -> LatencyRecord:
        """What the export took, on a clock of its own."""
        seconds, parts_s = exporting(hop, self.block)
        return self._record(EXPORT, seconds, parts_s, None)

    def _record(self, clock: str, seconds: float, stages_s: dict[str, float] | None, modelled_s: float | None) -> LatencyRecord:
        return LatencyRecord(
            self.block, self.order, self.strategy, clock, seconds, stages_s, self.sample_id, self.prefix_tokens, self.new_tokens,
            self.out.wire_bytes, _PROCESS, self.aa, modelled_s, self.out.fell_back, self.limits_s.get(clock),
        )  # fmt: skip


def first_token(agent: Agent, arrived: Arrived, prompt: Prompt, new_tokens: int | None, stages: AnyStages = NO_STAGES) -> Opened:
    """Opens what arrived and brings the first token's id to the host.

    With `new_tokens`, what follows a prefix of tokens is exactly so long, by ids; where the context comes as text, the
    prompt's words were cut to that, and the chat template's own tokens come on top.
    """
    opened = agent.open(arrived, prompt, stages)
    start = opened.start
    if new_tokens is not None and start.prefix.token_ids:
        start = Start(start.prefix, repeated(start.prompt_ids, new_tokens))
        opened = Opened(start, opened.received)
    agent.act([opened], [prompt], Speak((Speech(1, generator("latency")),), _GREEDY), stages, NOTHING)
    return opened
