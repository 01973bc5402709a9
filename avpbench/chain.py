"""The only hop loop: agents take turns, messages move between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from avpbench.agents import Agent, Job, Outgoing
from avpbench.core import AgentState, Prompt
from avpbench.links.link import Message
from avpbench.meter import NO_STAGES, AnyStages, Stages
from avpbench.records import HopRecord, TurnRecord


@final
@dataclass(frozen=True, eq=False, slots=True)
class ChainResult:
    """One sample at the end of a chain: the last agent's state, its ids and how it finished."""

    state: AgentState
    new_ids: tuple[tuple[int, ...], ...]  # what each agent generated, for a replay
    turns: tuple[TurnRecord, ...]
    hops: tuple[HopRecord, ...]

    @property
    def completion(self) -> str:
        return self.state.turn.said

    @property
    def finish(self) -> str:
        return self.turns[-1].finish


def run_chain(agents: Sequence[Agent], prompts: Sequence[Sequence[Prompt]], jobs: Sequence[Job]) -> list[ChainResult]:
    """Runs a batch of samples through the agents.

    Args:
        agents: in order; the last one does not hand over.
        prompts: per sample, one prompt an agent.
        jobs: one an agent.
    """
    turns: list[list[TurnRecord]] = [[] for _ in prompts]
    hops: list[list[HopRecord]] = [[] for _ in prompts]
    new_ids: list[list[tuple[int, ...]]] = [[] for _ in prompts]
    sent: list[Outgoing] = []
    states: list[AgentState] = []
    sending: AnyStages = NO_STAGES
    for place, (agent, job) in enumerate(zip(agents, jobs, strict=True)):
        mine = [sample[place] for sample in prompts]
        stages = Stages(agent.engine.device) if len(prompts) == 1 else NO_STAGES
        messages: list[Message | None] = [one.message for one in sent] or [None] * len(prompts)
        opened = [agent.receive(message, prompt, stages) for message, prompt in zip(messages, mine, strict=True)]
        done = agent.act(opened, mine, job, stages)
        for k, out in enumerate(sent):
            spent = sending.seconds() | stages.seconds() if isinstance(stages, Stages) and isinstance(sending, Stages) else None
            hops[k].append(_hop(out, agents[place - 1].pid, agent.pid, spent))
        for k, (state, continuation) in enumerate(done):
            turns[k].append(agent.record(state, continuation))
            new_ids[k].append(continuation.new_ids)
        states = [state for state, _ in done]
        if place + 1 < len(agents):
            sending = Stages(agent.engine.device) if len(prompts) == 1 else NO_STAGES
            receiver = agents[place + 1].engine.spec
            sent = [agent.send(state, receiver, sending) for state in states]
    return [ChainResult(state, tuple(ids), tuple(t), tuple(h)) for state, ids, t, h in zip(states, new_ids, turns, hops, strict=True)]


def _hop(out: Outgoing, sender_pid: int, receiver_pid: int, stages_s: dict[str, float] | None) -> HopRecord:
    return HopRecord(out.strategy, out.decision, sender_pid, receiver_pid, out.wire_bytes, out.cache_bytes, stages_s)
