"""The only hop loop: agents take turns, messages move between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from avpbench.agents import Job, Outgoing, Turned
from avpbench.core import AgentState, ModelSpec, Prompt
from avpbench.links.link import Message
from avpbench.records import HopRecord, TurnRecord


class Player(Protocol):
    """An agent, wherever it lives."""

    @property
    def pid(self) -> int: ...

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def bandwidth_bps(self) -> float | None: ...

    def turn(
        self, messages: Sequence[Message | None], prompts: Sequence[Prompt], job: Job, receiver: ModelSpec | None, capture: bool = True
    ) -> list[Turned]: ...


@final
@dataclass(frozen=True, eq=False, slots=True)
class ChainResult:
    """One sample at the end of a chain: the last agent's state (None: in another process), its ids and how it finished."""

    held: AgentState | None
    new_ids: tuple[tuple[int, ...], ...]  # what each agent generated, for a replay
    turns: tuple[TurnRecord, ...]
    hops: tuple[HopRecord, ...]

    @property
    def state(self) -> AgentState:
        """The last agent's state, where it lives in this process."""
        assert self.held is not None
        return self.held

    @property
    def completion(self) -> str:
        return self.turns[-1].said

    @property
    def finish(self) -> str:
        return self.turns[-1].finish


def run_chain(
    agents: Sequence[Player], prompts: Sequence[Sequence[Prompt]], jobs: Sequence[Job], to_go_on: bool = False
) -> list[ChainResult]:
    """Runs a batch of samples through the agents.

    Args:
        agents: in order; the last one does not hand over.
        prompts: per sample, one prompt an agent.
        jobs: one an agent.
        to_go_on: the last state will be handed over too, by the caller.
    """
    turns: list[list[Turned]] = []
    pids: list[int] = []
    for place, (agent, job) in enumerate(zip(agents, jobs, strict=True)):
        messages = [_out(one).message for one in turns[-1]] if turns else [None] * len(prompts)
        receiver = agents[place + 1].spec if place + 1 < len(agents) else None
        capture = receiver is not None or to_go_on
        turns.append(agent.turn(messages, [sample[place] for sample in prompts], job, receiver, capture))
        pids.append(agent.pid)
    return [_result(sample, pids, [agent.bandwidth_bps for agent in agents]) for sample in zip(*turns, strict=True)]


def _out(turned: Turned) -> Outgoing:
    assert turned.out is not None
    return turned.out


def _result(turned: Sequence[Turned], pids: Sequence[int], bandwidths_bps: Sequence[float | None]) -> ChainResult:
    hops = []
    for place, (sent, opened) in enumerate(itertools.pairwise(turned)):
        out = _out(sent)
        spent = None if sent.sending_s is None or opened.opening_s is None else sent.sending_s | opened.opening_s
        hops.append(
            HopRecord(
                out.strategy,
                out.decision,
                pids[place],
                pids[place + 1],
                out.wire_bytes,
                out.cache_bytes,
                out.num_values,
                spent,
                bandwidths_bps[place],
                out.modelled_s,
            )
        )
    return ChainResult(turned[-1].state, tuple(one.new_ids for one in turned), tuple(one.record for one in turned), tuple(hops))
