"""How a parcel gets from one agent to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from avpbench.core import ModelSpec, Parcel
from avpbench.meter import AnyStages
from avpbench.wire import Decoder

if TYPE_CHECKING:
    from avpbench.agents import Agent
    from avpbench.engine.load import Source
    from avpbench.remote.crew import Crew


@final
@dataclass(frozen=True, slots=True)
class Ticket:
    """A parcel that lies ready in another process: whoever has the ticket and the secret can fetch it there."""

    address: str
    key: str
    num_bytes: int


Message = memoryview | Parcel | Ticket  # bytes, the parcel itself by reference, or where to fetch it
Arrived = memoryview | Parcel | Decoder  # what is in the receiver's memory


@final
@dataclass(frozen=True, eq=False, slots=True)
class Posts:
    """What a link needs to place the agents of a cell in other processes.

    `sources` are the agents' models, in order; `strategies` the configs (JSON) of those that hops will be made with.
    """

    agents: Sequence[Agent]
    sources: Sequence[Source]
    strategies: Sequence[str]


class Link(ABC):
    """Carries a message of one sample; the chain moves it between `send` and `fetch`."""

    kind: ClassVar[str]  # its name in the records
    bandwidth_bps: float | None = None  # bits a second that it is held to; None: whatever it can

    @abstractmethod
    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Raises ConfigError where nothing can go this way between these two."""

    @abstractmethod
    def send(self, parcel: Parcel, stages: AnyStages) -> Message:
        """What leaves the sender."""

    @abstractmethod
    def fetch(self, message: Message, stages: AnyStages) -> Arrived:
        """Brings the message into the receiver's host memory. Raises LinkError for a peer that fails, WireError for its bytes."""

    @abstractmethod
    def receive(self, arrived: Arrived, stages: AnyStages) -> Parcel:
        """The parcel at the receiver. Raises WireError for bytes that are not one undamaged parcel."""

    @abstractmethod
    def in_process(self) -> Link:
        """The link that carries real bytes in this process, for phases that replay a hop there."""

    @property
    def rate(self) -> str | None:
        """The bandwidth that it is held to, in words that say how; None: none."""
        return None

    def modelled_s(self, num_bytes: int) -> float | None:
        """Seconds that are charged for so many bytes without being spent; None: every second is real."""
        return None

    def crew(self, posts: Posts) -> Crew | None:
        """The agents in processes of their own; None: they live in this one."""
        return None


def num_bytes(message: Message) -> int:
    """Bytes that cross: none by reference."""
    if isinstance(message, Ticket):
        return message.num_bytes
    return len(message) if isinstance(message, memoryview) else 0
