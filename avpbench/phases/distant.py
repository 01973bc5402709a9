"""The last hop between two worker processes, timed on the real path: each parcel crosses the sockets.

The hand-off is timed here, at the chain, from asking the sender to hand over until the receiver answers that the first id
is there: two small messages to the processes are part of it. The receiver itself times what begins when all bytes are in
its memory, and the same from tensors that are on its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch

from avpbench.agents import Outgoing
from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.core import Prompt
from avpbench.links.link import Ticket
from avpbench.meter import total
from avpbench.phases.hop import Place, Repeated, Timing, cut, repeated
from avpbench.phases.replay import raw_transcript
from avpbench.records import LatencyRecord
from avpbench.remote.crew import Crew, RemoteAgent
from avpbench.remote.messages import reading
from avpbench.strategies.strategy import Strategy

_CHAIN = torch.device("cpu")  # whose clock the hand-off is timed on


@final
@dataclass(frozen=True, eq=False, slots=True)
class DistantHop:
    """A sender that holds its state in its process, and what its receiver will be told in another."""

    strategy: Strategy
    sender: RemoteAgent
    receiver: RemoteAgent
    prompt: Prompt
    sample_id: str
    new_tokens: int | None

    def every_clock(self, place: Place) -> list[LatencyRecord]:
        about, records = self._by_bytes(place)
        resident = self._first(self.sender.hand(self.receiver.spec, staged=False)[0], "device")
        with total(_CHAIN) as staged:
            sent, sending_s = self.sender.hand(self.receiver.spec, staged=True)
            opening = self._first(sent, "stages")
        with reading("a timed hop"):
            parts_s = {**(sending_s or {}), **opening["opening_s"]}
            return [*records, about.record("device", float(resident["seconds"])), about.record("stages", staged.seconds, parts_s)]

    def by_bytes(self, place: Place) -> list[LatencyRecord]:
        return self._by_bytes(place)[1]

    def _by_bytes(self, place: Place) -> tuple[Repeated, list[LatencyRecord]]:
        with total(_CHAIN) as handoff:
            out, _ = self.sender.hand(self.receiver.spec, staged=False)
            host = self._first(out, "host")
        with reading("a timed hop"):
            about = Repeated(place, self.strategy.label, self.sample_id, int(host["prefix_tokens"]), int(host["new_tokens"]), out)
            return about, [about.record("host", float(host["seconds"])), about.record("handoff", handoff.seconds)]

    def _first(self, out: Outgoing, clock: str) -> dict[str, Any]:
        assert isinstance(out.message, Ticket), "parcels stay between the processes"
        return self.receiver.ask("first", message=asdict(out.message), prompt=asdict(self.prompt), new_tokens=self.new_tokens, clock=clock)


def distant_hops(cell: Cell, crew: Crew, strategies: Sequence[Strategy], index: int, timing: Timing) -> list[DistantHop]:
    """The raw transcript, spoken here, replayed in the processes through each strategy's own hops."""
    spoken = raw_transcript(cell, [index])[0]
    hops = []
    for strategy in strategies:
        sender, receiver = _held(cell, crew, strategy, index, timing, spoken)
        told = cut(cell.prompts(index)[-1], cell.agents[-1], timing.new_tokens)
        hops.append(DistantHop(strategy, sender, receiver, told, cell.task.problem(index).id, timing.new_tokens))
    return hops


def _held(cell: Cell, crew: Crew, strategy: Strategy, index: int, timing: Timing, spoken: ChainResult) -> tuple[RemoteAgent, RemoteAgent]:
    """The last two agents, the first of which holds the state that is handed over."""
    *others, sender, receiver = crew.players(strategy)
    sender = replace(sender, hold=str(index))
    if timing.prefix_tokens is None:
        ahead = cell.settings.chain - 1
        run_chain([*others, sender], [cell.prompts(index)[:ahead]], cell.jobs([index], [spoken.new_ids], ahead), to_go_on=True)
        return sender, receiver
    state = spoken.state
    ids = repeated([i for i in state.token_ids if i >= 0], timing.prefix_tokens)
    sender.ask("hold", hold=sender.hold, token_ids=ids, role=state.turn.role, question=state.question)
    return sender, receiver
