"""One timed hop: the same hand-off made again and again, by every clock or by bytes alone, and its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, final

import torch

from avpbench.agents import Agent, Opened, Outgoing, Speak
from avpbench.checks import whole
from avpbench.core import AgentState, Prefix, Prompt, Turn
from avpbench.engine.batch import Start
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import NOTHING
from avpbench.engine.sampling import Sampling, generator
from avpbench.engine.work import work_of
from avpbench.limits import ttft_limit_s
from avpbench.links.link import Arrived, Link
from avpbench.links.shared import Shared
from avpbench.meter import NO_STAGES, AnyStages, Stages, measured_rates, total
from avpbench.records import EXPORT, PROCESS, LatencyRecord
from avpbench.strategies.strategy import Strategy

_GREEDY = Sampling()


@final
@dataclass(frozen=True, slots=True)
class Timing:
    """What is timed. `prefix_tokens` None: the transcript's own; `new_tokens` is the receiver's prompt, cut or repeated
    to this length (None: its own). `runs`: the most in a block of one strategy."""

    repeats: int
    warmup: int
    new_tokens: int | None
    prefix_tokens: int | None
    aa: bool
    runs: int = 1

    def __post_init__(self) -> None:
        whole("latency.repeats", self.repeats, 1)
        whole("latency.warmup", self.warmup, 0)
        whole("latency.runs", self.runs, 1)
        whole("latency.new_tokens", self.new_tokens, 1, null="the prompt's own")
        whole("latency.prefix_tokens", self.prefix_tokens, 1, null="the transcript's own")


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands: its block, its place in that, and whether it is the second of A/A."""

    block: int
    order: int
    aa: bool


class TimedHop(Protocol):
    """A hop that can be made again and again, wherever its two agents live."""

    @property
    def strategy(self) -> Strategy: ...

    def every_clock(self, place: Place) -> list[LatencyRecord]:
        """One run by each clock."""

    def by_bytes(self, place: Place) -> list[LatencyRecord]:
        """One run by the clocks of the hand-off: host and handoff."""


@final
@dataclass(frozen=True, slots=True)
class Repeated:
    """What the records of one run have in common."""

    place: Place
    strategy: str
    sample_id: str
    prefix_tokens: int
    new_tokens: int
    out: Outgoing
    limits_s: Mapping[str, float] = field(default_factory=dict)  # of TTFT, by clock: what this process's measured rates allow

    def record(self, clock: str, seconds: float, parts_s: dict[str, float] | None = None) -> LatencyRecord:
        """What the link is charged belongs to the hand-off, not to its receiver."""
        charged_s = self.out.modelled_s if clock in ("handoff", "stages") else None
        return LatencyRecord(
            self.place.block, self.place.order, self.strategy, clock, seconds + (charged_s or 0.0), parts_s, self.sample_id,
            self.prefix_tokens, self.new_tokens, self.out.wire_bytes, PROCESS, self.place.aa, charged_s, self.out.fell_back,
            self.limits_s.get(clock),
        )  # fmt: skip


@final
@dataclass(frozen=True, eq=False, slots=True)
class LastHop:
    """A sender that has just finished, and what its receiver will be told, `new_tokens` of it."""

    strategy: Strategy
    sender: Agent
    receiver: Agent
    state: AgentState
    prompt: Prompt
    sample_id: str
    new_tokens: int | None

    def every_clock(self, place: Place) -> list[LatencyRecord]:
        about, records = self._by_bytes(place)
        device, shared = self.receiver.engine.device, Shared()
        sender, receiver = self._over(shared)
        by_reference = sender.send(self.state, receiver.spec).message
        with total(device) as resident:
            first_token(receiver, shared.fetch(by_reference, NO_STAGES), self.prompt, self.new_tokens)
        link, stages = self.sender.link.in_process(), Stages(device)
        sender, receiver = self._over(link)
        with total(device) as staged:
            message = sender.send(self.state, receiver.spec, stages).message
            first_token(receiver, link.fetch(message, stages), self.prompt, self.new_tokens, stages)
        records += [about.record("device", resident.seconds), about.record("stages", staged.seconds, stages.seconds())]
        return records if place.aa else [*records, about.record(EXPORT, *exporting(self, place.block))]

    def by_bytes(self, place: Place) -> list[LatencyRecord]:
        return self._by_bytes(place)[1]

    def _by_bytes(self, place: Place) -> tuple[Repeated, list[LatencyRecord]]:
        device, link = self.receiver.engine.device, self.sender.link.in_process()
        sender, receiver = self._over(link)
        with total(device) as handoff:
            out = sender.send(self.state, receiver.spec)
            arrived = link.fetch(out.message, NO_STAGES)
            with total(device) as host:
                opened = first_token(receiver, arrived, self.prompt, self.new_tokens)
        start, given = opened.start, self.new_tokens or len(opened.start.prompt_ids)
        bounds = {"host": self._limit_s(start, out.cache_bytes, out.wire_bytes), "device": self._limit_s(start, out.cache_bytes, 0)}
        about = Repeated(place, self.strategy.label, self.sample_id, len(start.token_ids) - given, given, out, bounds)
        return about, [about.record("host", host.seconds), about.record("handoff", handoff.seconds)]

    def _over(self, link: Link) -> tuple[Agent, Agent]:
        return replace(self.sender, link=link), replace(self.receiver, link=link)

    def _limit_s(self, start: Start, held_bytes: int, upload_bytes: int) -> float:
        engine = self.receiver.engine
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


def cut(prompt: Prompt, agent: Agent, num_tokens: int | None) -> Prompt:
    """The prompt with its words cut or repeated to this many tokens (None: as it is)."""
    if num_tokens is None:
        return prompt
    return replace(prompt, words=agent.engine.decode(repeated(agent.engine.template.encode(prompt.words), num_tokens)))


def sized(sender: Agent, ids: tuple[int, ...], role: str, question: str, needs: frozenset[str]) -> AgentState:
    """A state of exactly these tokens, `needs` kept of their pass; its words are what they decode to."""
    read = sender.engine.prefill([Start(Prefix(), ids)], needs)
    turn = Turn(role, "", sender.engine.decode(ids))
    return AgentState(sender.spec, ids, None, read.caches[0], turn, question, None, read.captured[0])


def repeated(ids: Sequence[int], length: int) -> tuple[int, ...]:
    return tuple((list(ids) * (length // len(ids) + 1))[:length])
