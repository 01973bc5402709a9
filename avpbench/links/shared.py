"""By reference: the receiver gets the sender's own tensors, on their device. Nothing is copied, no bytes cross."""

from __future__ import annotations

from typing import final

from avpbench.core import ModelSpec, Parcel
from avpbench.errors import ConfigError
from avpbench.links.direct import Direct
from avpbench.links.link import Arrived, Link, Message
from avpbench.meter import AnyStages


@final
class Shared(Link):
    """Hands the parcel over as it is. The engine copies what it extends, so the sender's cache stays its own."""

    kind = "shared"

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        if sender != receiver:
            raise ConfigError(
                f"link=shared hands over by reference within one model, not from {sender.name} to {receiver.name}; use link=direct"
            )

    def send(self, parcel: Parcel, stages: AnyStages) -> Message:
        return parcel

    def fetch(self, message: Message, stages: AnyStages) -> Arrived:
        assert isinstance(message, Parcel)
        return message

    def receive(self, arrived: Arrived, stages: AnyStages) -> Parcel:
        assert isinstance(arrived, Parcel)
        return arrived

    def in_process(self) -> Link:
        return Direct()
