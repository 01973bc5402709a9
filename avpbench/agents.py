"""An agent: opens what it is handed, speaks or thinks, hands over what it holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from avpbench.core import AgentState, ModelSpec, Parcel, Prefix, Prompt, Turn
from avpbench.engine.batch import Start
from avpbench.engine.continuation import Continuation, Speech
from avpbench.engine.engine import NOTHING, Engine
from avpbench.engine.sampling import Sampling
from avpbench.errors import ConfigError
from avpbench.links.link import Arrived, Link, Message, num_bytes
from avpbench.meter import NO_STAGES, AnyStages, Stages
from avpbench.prompts import fill
from avpbench.records import TurnRecord
from avpbench.strategies.strategy import Strategy
from avpbench.strategies.words import fell_back


@final
@dataclass(frozen=True, slots=True)
class Think:
    """N latent steps instead of words. `demands`: per sample, what the gold continuation will attend to (fidelity only)."""

    steps: int
    demands: tuple[Tensor, ...] | None = None


@final
@dataclass(frozen=True, slots=True)
class Speak:
    """One Speech a sample. `demands`: as for Think."""

    speeches: tuple[Speech, ...]
    sampling: Sampling
    demands: tuple[Tensor, ...] | None = None


@final
@dataclass(frozen=True, slots=True)
class Recite:
    """What was said once, said again: the ids of each sample, read in one pass. `demands`: as for Think."""

    scripts: tuple[tuple[int, ...], ...]
    demands: tuple[Tensor, ...] | None = None


Job = Think | Speak | Recite


@final
@dataclass(frozen=True, eq=False, slots=True)
class Outgoing:
    """What an agent sends: the message, and what its record needs."""

    message: Message
    strategy: str
    decision: str | None
    wire_bytes: int
    cache_bytes: int
    num_values: int | None
    modelled_s: float | None  # seconds charged for the link and not spent
    spoken: str | None  # what an agent that had only thought said for a fallback to words, and in how many tokens
    spoken_tokens: int

    @property
    def fell_back(self) -> bool:
        """Whether words took the place of something else."""
        return fell_back(self.strategy, self.decision)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Turned:
    """One sample after an agent's turn. `out` is None for the last agent; the stages' seconds, where samples were batched;
    the state, where it stays in another process."""

    state: AgentState | None
    record: TurnRecord
    new_ids: tuple[int, ...]
    out: Outgoing | None
    opening_s: dict[str, float] | None
    sending_s: dict[str, float] | None


@final
@dataclass(frozen=True, eq=False, slots=True)
class Opened:
    """What an agent was handed, opened: where it starts and the parcel that it may forward."""

    start: Start
    received: Parcel | None


@final
@dataclass(frozen=True, slots=True)
class Agent:
    """An engine with a way to hand over and a way to carry."""

    engine: Engine
    strategy: Strategy
    link: Link

    @property
    def pid(self) -> int:
        """The process that this agent lives in."""
        return os.getpid()

    @property
    def spec(self) -> ModelSpec:
        """Who it is."""
        return self.engine.spec

    @property
    def bandwidth_bps(self) -> float | None:
        """What its link is held to."""
        return self.link.bandwidth_bps

    def turn(
        self, messages: Sequence[Message | None], prompts: Sequence[Prompt], job: Job, receiver: ModelSpec | None, capture: bool = True
    ) -> list[Turned]:
        """A whole turn, from buffers to buffers, of samples in one batch: opens, acts, and hands over to `receiver`, if any.

        With `capture`, what the strategy needs of the passes is kept, for this hand-over or a later one.
        Raises LinkError, WireError, ConfigError, OutOfMemory.
        """
        stages, sending = (self._stages(len(prompts)) for _ in range(2))
        opened = [self.receive(message, prompt, stages) for message, prompt in zip(messages, prompts, strict=True)]
        done = self.act(opened, prompts, job, stages, None if capture else NOTHING)
        outs = [None if receiver is None else self.send(state, receiver, sending) for state, _ in done]
        spent = stages.seconds(), sending.seconds()
        return [Turned(state, self._record(state, c, out), c.new_ids, out, *spent) for (state, c), out in zip(done, outs, strict=True)]

    def _stages(self, num_samples: int) -> AnyStages:
        return Stages(self.engine.device) if num_samples == 1 else NO_STAGES

    def receive(self, message: Message | None, prompt: Prompt, stages: AnyStages = NO_STAGES) -> Opened:
        """Fetches a message, opens it and puts the prompt behind it. Raises LinkError, WireError."""
        return self.open(None if message is None else self.link.fetch(message, stages), prompt, stages)

    def open(self, arrived: Arrived | None, prompt: Prompt, stages: AnyStages = NO_STAGES) -> Opened:
        """Opens what has arrived and puts the prompt behind it. Raises WireError for what cannot be opened here."""
        parcel = None if arrived is None else self.link.receive(arrived, stages)
        with stages("inject"):
            prefix = Prefix() if parcel is None else self.strategy.inject(parcel, self.engine)
            template = self.engine.template
            ids = template.following(prompt.words) if prefix.token_ids else template.first(fill(prefix.text, prompt.words))
        return Opened(Start(prefix, ids), parcel)

    def act(
        self, opened: Sequence[Opened], prompts: Sequence[Prompt], job: Job, stages: AnyStages = NO_STAGES,
        needs: frozenset[str] | None = None,
    ) -> list[tuple[AgentState, Continuation]]:  # fmt: skip
        """Speaks, recites or thinks, all samples in one batch; `needs` (None: the strategy's) is captured on the way.

        Raises ConfigError where a sequence would not fit the window.
        """
        needs = self.strategy.needs if needs is None else needs
        starts = [one.start for one in opened]
        more = _longest(job)
        longest = max(len(start.token_ids) for start in starts) + more
        if longest > self.engine.window:
            raise ConfigError(
                f"{longest} tokens (prefix, prompt and {more} new) do not fit {self.engine.spec.name}'s window of"
                f" {self.engine.window}; lower context, chain, max_agent_tokens or max_new_tokens"
            )
        if isinstance(job, Think):
            done = self.engine.think(starts, job.steps, stages, needs)
        elif isinstance(job, Recite):
            done = self.engine.recite(starts, job.scripts, stages, needs)
        else:
            done = self.engine.speak(starts, job.speeches, job.sampling, stages, needs)
        demands = job.demands or [None] * len(prompts)
        return [(self._state(*parts), parts[2]) for parts in zip(opened, prompts, done, demands, strict=True)]

    def _state(self, opened: Opened, prompt: Prompt, done: Continuation, demand_S: Tensor | None) -> AgentState:
        said = self.engine.decode(done.new_ids)
        turn = Turn(prompt.role, prompt.words, said)
        state = AgentState(self.engine.spec, done.token_ids, done.soft_NE, done.cache, turn, prompt.question, opened.received)
        return replace(state, captured=done.captured if demand_S is None else replace(done.captured, demand_S=demand_S))

    def send(self, state: AgentState, receiver: ModelSpec, stages: AnyStages = NO_STAGES) -> Outgoing:
        """Hands over a state."""
        with stages("export"):
            parcel = self.strategy.export(state, self.engine, receiver)
        message = self.link.send(parcel, stages)
        held = sum(t.numel() * t.element_size() for t in parcel.tensors.values())
        body, spec = parcel.card.body, state.spec
        span, spoken_tokens = body.get("span"), body.get("spoken_tokens", 0)  # a card of K/V says how many tokens it stands for
        values = None if span is None else spec.values_per_token * span
        spoken, size = body["turns"][-1]["said"] if spoken_tokens else None, num_bytes(message)
        charged = self.link.modelled_s(size)
        return Outgoing(message, parcel.card.kind, parcel.card.decision, size, held, values, charged, spoken, spoken_tokens)

    def _record(self, state: AgentState, done: Continuation, out: Outgoing | None) -> TurnRecord:
        """What the turn cost, with what a fallback made the agent say: its last thought is read again for that."""
        fell = out if out is not None and out.spoken is not None else None
        return TurnRecord(
            role=state.turn.role,
            model=self.engine.spec.name,
            said=fell.spoken if fell is not None and fell.spoken is not None else state.turn.said,
            finish=done.finish,
            cached_tokens=done.cached_tokens,
            prefilled_tokens=done.prefilled_tokens + (fell is not None),
            generated_tokens=len(done.new_ids) + (fell.spoken_tokens if fell else 0),
            latent_steps=done.latent_steps,
            kv_bytes=done.cache.num_bytes,
        )


def _longest(job: Job) -> int:
    """The most tokens that it adds to a row."""
    if isinstance(job, Think):
        return job.steps
    return max(map(len, job.scripts)) if isinstance(job, Recite) else max(s.max_new_tokens for s in job.speeches)
