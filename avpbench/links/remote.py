"""Real bytes between two processes, over the loopback: streamed in chunks, decoded while they arrive."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from avpbench import wire
from avpbench.core import ModelSpec, Parcel
from avpbench.links.direct import Direct
from avpbench.links.link import Arrived, Link, Message, Posts, Ticket
from avpbench.meter import AnyStages
from avpbench.remote import secret as secrets
from avpbench.remote.inlet import Inlet
from avpbench.remote.outbox import Outbox
from avpbench.remote.terms import Terms, require_zmq

if TYPE_CHECKING:
    from avpbench.remote.crew import Crew


@final
class Remote(Link):
    """The sender lays its parcel ready and hands over a ticket; the receiver fetches it straight from the sender.

    `secret` is of the run that both processes belong to; None: a fresh one. Raises ConfigError for values that cannot
    be, and where the transport is not installed.
    """

    kind = "remote"

    def __init__(self, secret: bytes | None = None, **terms: Any) -> None:
        require_zmq()
        self.terms, self.secret = Terms(**terms), secret or secrets.fresh()
        self.bandwidth_bps = self.terms.bandwidth_bps

    @cached_property
    def outbox(self) -> Outbox:
        """Opened by the first parcel that is sent."""
        return Outbox(self.terms, self.secret)

    @cached_property
    def inlet(self) -> Inlet:
        """Opened by the first parcel that is fetched."""
        return Inlet(self.terms, self.secret)

    @property
    def rate(self) -> str | None:
        return None if self.terms.bandwidth is None else f"{self.terms.bandwidth} shaped"

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Bytes go between any two."""

    def send(self, parcel: Parcel, stages: AnyStages) -> Message:
        with stages("encode"):
            return self.outbox.put(wire.encode(parcel))

    def fetch(self, message: Message, stages: AnyStages) -> Arrived:
        assert isinstance(message, Ticket)
        with stages("transfer"):  # what is decoded on the way is decoded here; the rest is the stage `decode`
            return self.inlet.fetch(message)

    def receive(self, arrived: Arrived, stages: AnyStages) -> Parcel:
        assert isinstance(arrived, wire.Decoder)
        with stages("decode"):
            return arrived.parcel()

    def in_process(self) -> Link:
        return Direct()

    def crew(self, posts: Posts) -> Crew:
        from avpbench.remote.crew import Crew

        return Crew(posts, self)

    def fields(self) -> dict[str, Any]:
        """What another process needs to make the same link, but for the secret."""
        return asdict(self.terms)

    def close(self) -> None:
        """Closes what was opened."""
        for name in ("outbox", "inlet"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()
