"""The agents of a chain in worker processes: the chain moves tickets between them, the parcels go from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

import torch

from avpbench.agents import Job, Outgoing, Turned
from avpbench.core import ModelSpec, Prompt
from avpbench.errors import LinkError
from avpbench.links.link import Message, Posts, Ticket
from avpbench.progress import say
from avpbench.remote import messages as m
from avpbench.remote.process import Process
from avpbench.strategies.strategy import Strategy

if TYPE_CHECKING:
    from avpbench.links.remote import Remote


@final
@dataclass(frozen=True, eq=False, slots=True)
class RemoteAgent:
    """An agent in a worker process. `hold` names what the process keeps of its last state; None: nothing."""

    place: int
    spec: ModelSpec
    strategy: Strategy
    process: Process
    bandwidth_bps: float | None
    hold: str | None = None

    @property
    def pid(self) -> int:
        """The process that it lives in."""
        return self.process.pid

    def turn(
        self, messages: Sequence[Message | None], prompts: Sequence[Prompt], job: Job, receiver: ModelSpec | None, capture: bool = True
    ) -> list[Turned]:
        """A whole turn there. Where its process dies, another one does the turn: what it was handed still lies with the sender.

        Raises what an agent raises, and LinkError where a process fails.
        """
        asked = {
            "messages": [self._row(message) for message in messages],
            "prompts": [asdict(prompt) for prompt in prompts],
            "job": m.job_row(job),
            "receiver": None if receiver is None else asdict(receiver),
            "capture": capture,
            "hold": self.hold,
        }
        try:
            rows = self.ask("turn", **asked)["turned"]
        except LinkError as error:
            if not self.process.died:
                raise
            say(f"note: {error}; another process does this turn")
            rows = self.ask("turn", **asked)["turned"]
        with m.reading("a turn"):
            return [m.turned_of(row) for row in rows]

    def ask(self, kind: str, **body: Any) -> dict[str, Any]:
        """Asks its process for something of its own."""
        return self.process.ask(kind, place=self.place, strategy=self.strategy.label, **body)

    def hand(self, receiver: ModelSpec, staged: bool) -> tuple[Outgoing, dict[str, float] | None]:
        """Hands over what is held, and the stages' seconds."""
        answer = self.ask("hand", hold=self.hold, receiver=asdict(receiver), staged=staged)
        with m.reading("a hand-over"):
            out = m.out_of(answer["out"])
            assert out is not None, "a hand-over has a parcel"
            return out, answer["sending_s"]

    def _row(self, message: Message | None) -> dict[str, Any] | None:
        assert message is None or isinstance(message, Ticket), "parcels stay between the processes"
        return None if message is None else asdict(message)


@final
class Crew:
    """The worker processes of one cell. Agent k lives in process k modulo their number."""

    def __init__(self, posts: Posts, link: Remote) -> None:
        self._specs, self._link = [agent.spec for agent in posts.agents], link
        engine = posts.agents[0].engine
        common = {
            "secret": link.secret.hex(), "link": link.fields(), "strategies": list(posts.strategies), "device": str(engine.device),
            "dtype": engine.spec.dtype, "threads": torch.get_num_threads(),
            "everybody": [asdict(source) for source in dict.fromkeys(posts.sources)],
        }  # fmt: skip
        sources = dict(enumerate(map(asdict, posts.sources)))
        count = min(link.terms.processes, len(sources))
        dealt = [{place: one for place, one in sources.items() if place % count == k} for k in range(count)]
        self.processes = [
            Process(common | {"sources": own}, {place: self._specs[place] for place in own}, link.terms, link.secret) for own in dealt
        ]

    def players(self, strategy: Strategy) -> list[RemoteAgent]:
        """The agents, handing over by this strategy. All processes are started, side by side, before one is waited for."""
        for process in self.processes:
            process.launch()
        rate, processes = self._link.bandwidth_bps, self.processes
        return [RemoteAgent(k, spec, strategy, processes[k % len(processes)], rate) for k, spec in enumerate(self._specs)]

    def close(self) -> None:
        """Ends the processes, and closes what the link opened here."""
        for process in self.processes:
            process.end()
        self._link.close()
