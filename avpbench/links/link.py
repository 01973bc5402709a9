"""How a parcel gets from one agent to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod

from avpbench.core import ModelSpec, Parcel
from avpbench.meter import AnyStages

Message = memoryview | Parcel  # bytes, or the parcel itself by reference


class Link(ABC):
    """Carries a message of one sample; the chain moves it between `send` and `receive`."""

    @abstractmethod
    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Raises ConfigError where nothing can go this way between these two."""

    @abstractmethod
    def send(self, parcel: Parcel, stages: AnyStages) -> Message:
        """What leaves the sender."""

    @abstractmethod
    def receive(self, message: Message, stages: AnyStages) -> Parcel:
        """The parcel at the receiver. Raises WireError for bytes that are not one undamaged parcel."""


def num_bytes(message: Message) -> int:
    """Bytes that crossed: none by reference."""
    return len(message) if isinstance(message, memoryview) else 0
