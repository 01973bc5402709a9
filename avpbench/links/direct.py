"""Real bytes, in one process."""

from __future__ import annotations

from typing import final

from avpbench import wire
from avpbench.core import ModelSpec, Parcel
from avpbench.links.link import Link, Message
from avpbench.meter import AnyStages


@final
class Direct(Link):
    """Encodes at the sender, decodes at the receiver; the buffer stays in this process."""

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Bytes go between any two."""

    def send(self, parcel: Parcel, stages: AnyStages) -> Message:
        with stages("encode"):
            return wire.encode(parcel)

    def receive(self, message: Message, stages: AnyStages) -> Parcel:
        assert isinstance(message, memoryview)
        with stages("transfer"):
            pass  # the receiver is in this process: the buffer is already there
        with stages("decode"):
            return wire.decode(message)
