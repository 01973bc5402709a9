"""By reference: the receiver gets the sender's own tensors, on their device. Nothing is copied, no bytes cross."""

from __future__ import annotations

from typing import final

from avpbench.core import Parcel
from avpbench.links.link import Link, Message
from avpbench.meter import AnyStages


@final
class Shared(Link):
    """Hands the parcel over as it is. The engine copies what it extends, so the sender's cache stays its own."""

    def send(self, parcel: Parcel, stages: AnyStages) -> Message:
        return parcel

    def receive(self, message: Message, stages: AnyStages) -> Parcel:
        assert isinstance(message, Parcel)
        return message
