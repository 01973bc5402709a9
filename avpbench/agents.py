"""An agent: opens what it is handed, speaks or thinks, hands over what it holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from avpbench.core import AgentState, ModelSpec, Parcel, Prefix, Prompt, Turn
from avpbench.engine.batch import Start
from avpbench.engine.engine import Continuation, Engine, Speech
from avpbench.engine.sampling import Sampling
from avpbench.errors import ConfigError
from avpbench.links.link import Link, Message, num_bytes
from avpbench.meter import NO_STAGES, AnyStages, Stages
from avpbench.prompts import fill
from avpbench.records import TurnRecord
from avpbench.strategies.strategy import Strategy


@final
@dataclass(frozen=True, slots=True)
class Think:
    """N latent steps instead of words."""

    steps: int


@final
@dataclass(frozen=True, slots=True)
class Speak:
    """One Speech a sample."""

    speeches: tuple[Speech, ...]
    sampling: Sampling


Job = Think | Speak


@final
@dataclass(frozen=True, eq=False, slots=True)
class Outgoing:
    """What an agent sends: the message, and what its record needs."""

    message: Message
    strategy: str
    decision: str | None
    wire_bytes: int
    cache_bytes: int


@final
@dataclass(frozen=True, eq=False, slots=True)
class Turned:
    """One sample after an agent's turn. `out` is None for the last agent; the stages' seconds, where samples were batched."""

    state: AgentState
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

    def turn(self, messages: Sequence[Message | None], prompts: Sequence[Prompt], job: Job, receiver: ModelSpec | None) -> list[Turned]:
        """A whole turn, from buffers to buffers, of samples in one batch: opens, acts, and hands over to `receiver`, if any.

        Raises WireError, ConfigError, OutOfMemory.
        """
        stages, sending = (self._stages(len(prompts)) for _ in range(2))
        opened = [self.receive(message, prompt, stages) for message, prompt in zip(messages, prompts, strict=True)]
        done = self.act(opened, prompts, job, stages)
        outs = [None if receiver is None else self.send(state, receiver, sending) for state, _ in done]
        spent = stages.seconds(), sending.seconds()
        return [Turned(state, self._record(state, c), c.new_ids, out, *spent) for (state, c), out in zip(done, outs, strict=True)]

    def _stages(self, num_samples: int) -> AnyStages:
        return Stages(self.engine.device) if num_samples == 1 else NO_STAGES

    def receive(self, message: Message | None, prompt: Prompt, stages: AnyStages = NO_STAGES) -> Opened:
        """Opens a message and puts the prompt behind it. Raises WireError for a message that cannot be opened here."""
        parcel = None if message is None else self.link.receive(message, stages)
        with stages("inject"):
            prefix = Prefix() if parcel is None else self.strategy.inject(parcel, self.engine)
            template = self.engine.template
            ids = template.following(prompt.words) if prefix.token_ids else template.first(fill(prefix.text, prompt.words))
        return Opened(Start(prefix, ids), parcel)

    def act(
        self, opened: Sequence[Opened], prompts: Sequence[Prompt], job: Job, stages: AnyStages = NO_STAGES
    ) -> list[tuple[AgentState, Continuation]]:
        """Speaks or thinks, all samples in one batch. Raises ConfigError where a sequence would not fit the window."""
        starts = [one.start for one in opened]
        more = job.steps if isinstance(job, Think) else max(s.max_new_tokens for s in job.speeches)
        longest = max(len(start.token_ids) for start in starts) + more
        if longest > self.engine.window:
            raise ConfigError(
                f"{longest} tokens (prefix, prompt and {more} new) do not fit {self.engine.spec.name}'s window of"
                f" {self.engine.window}; lower context, chain, max_agent_tokens or max_new_tokens"
            )
        if isinstance(job, Think):
            done = self.engine.think(starts, job.steps, stages)
        else:
            done = self.engine.speak(starts, job.speeches, job.sampling, stages)
        return [
            (self._state(one, prompt, continuation), continuation) for one, prompt, continuation in zip(opened, prompts, done, strict=True)
        ]

    def _state(self, opened: Opened, prompt: Prompt, done: Continuation) -> AgentState:
        said = self.engine.decode(done.new_ids)
        turn = Turn(prompt.role, prompt.words, said)
        return AgentState(self.engine.spec, done.token_ids, done.soft_NE, done.cache, turn, prompt.question, opened.received)

    def send(self, state: AgentState, receiver: ModelSpec, stages: AnyStages = NO_STAGES) -> Outgoing:
        """Hands over a state."""
        with stages("export"):
            parcel = self.strategy.export(state, self.engine, receiver)
        message = self.link.send(parcel, stages)
        held = sum(t.numel() * t.element_size() for t in parcel.tensors.values())
        return Outgoing(message, parcel.card.kind, parcel.card.decision, num_bytes(message), held)

    def _record(self, state: AgentState, done: Continuation) -> TurnRecord:
        return TurnRecord(
            role=state.turn.role,
            model=self.engine.spec.name,
            said=state.turn.said,
            finish=done.finish,
            cached_tokens=done.cached_tokens,
            prefilled_tokens=done.prefilled_tokens,
            generated_tokens=len(done.new_ids),
            latent_steps=done.latent_steps,
            kv_bytes=done.cache.num_bytes,
        )
