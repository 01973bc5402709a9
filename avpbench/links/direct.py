"""Real bytes, in one process."""

from __future__ import annotations

from typing import final

from avpbench import wire
from avpbench.core import ModelSpec, Parcel
from avpbench.links.link import Arrived, Link, Message
from avpbench.meter import AnyStages
from avpbench.rates import bits_per_s


@final
class Direct(Link):
    """Encodes at the sender, decodes at the receiver; the buffer stays in this process.

    With a bandwidth nothing is slowed down: bytes / bandwidth is charged to the hand-off, and the records say that this
    part is modelled.
    """

    kind = "direct"

    def __init__(self, bandwidth: str | None = None) -> None:
        self.bandwidth_bps, self._written = bits_per_s("link.bandwidth", bandwidth), bandwidth

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Bytes go between any two."""

    def send(self, parcel: Parcel, stages: AnyStages) -> Message:
        with stages("encode"):
            return wire.encode(parcel)

    def fetch(self, message: Message, stages: AnyStages) -> Arrived:
        assert isinstance(message, memoryview)
        stages.charge("transfer", self.modelled_s(len(message)) or 0.0)  # the receiver is in this process: it is already there
        return message

    def receive(self, arrived: Arrived, stages: AnyStages) -> Parcel:
        assert isinstance(arrived, memoryview)
        with stages("decode"):
            return wire.decode(arrived)

    def in_process(self) -> Link:
        return self

    @property
    def rate(self) -> str | None:
        return None if self._written is None else f"{self._written} modelled"

    def modelled_s(self, num_bytes: int) -> float | None:
        return None if self.bandwidth_bps is None else 8 * num_bytes / self.bandwidth_bps
