"""How a hop is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from avpbench.core import AgentState, CacheCard, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.errors import IncompatibleModels, WireError


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """What a strategy was made of, as records name it; None: it has no such part."""

    controller: str | None = None
    codec: str | None = None
    budget_bits: float | str | None = None  # see strategies/budget.py


class Strategy(ABC):
    """Exports what an agent holds as a parcel, and makes a prefix of a parcel at the receiver.

    Stateless between hops: `inject` sees the parcel, the strategy's own fields and the receiver, nothing else. Neither
    changes the state it is given. Both see one sample and no padding.
    """

    kind: ClassVar[str]  # the name on the card and in the records
    thinks: ClassVar[bool]  # can hand over what a latent step left behind
    speaks: bool = True  # can hand over what was said
    far: bool = True  # its two ends may be in different processes
    needs: frozenset[str] = frozenset()  # what the engine is to capture of the sender's passes (avpbench.engine.capture)

    @abstractmethod
    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Raises IncompatibleModels where this sender cannot hand over to this receiver."""

    @abstractmethod
    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        """The parcel that the sender hands over. The state is not changed; tensors may be views of it."""

    @abstractmethod
    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        """Where the receiver starts. Raises WireError for a parcel that this strategy cannot open there."""

    @property
    def parts(self) -> Parts:
        """What it is made of."""
        return Parts()

    @property
    def label(self) -> str:
        """What tells it from another in one comparison: its kind and its parts."""
        budget = self.parts.budget_bits
        shown = (self.parts.controller, self.parts.codec, f"{budget:g}" if isinstance(budget, float) else budget)
        return " ".join([self.kind, *(part for part in shown if part is not None)])

    def most_bytes(self, state: AgentState, sender: Engine) -> int | None:
        """The most bytes that the whole parcel of this state may have; None where there is no budget."""
        return None

    def card(self, state: AgentState, **body: object) -> CacheCard:
        """A card of this strategy's own kind."""
        return CacheCard(self.kind, state.spec, body)

    def own(self, parcel: Parcel, *also: str) -> Parcel:
        """The parcel, if it is of this strategy's kind or one of these others; else raises WireError."""
        opens = (self.kind, *also)
        if parcel.card.kind not in opens:
            raise WireError(f"got a parcel of kind {parcel.card.kind!r}; {self.kind} opens {', '.join(map(repr, opens))} only")
        return parcel

    def own_model(self, parcel: Parcel, receiver: Engine) -> CacheCard:
        """The card of a parcel of this kind, if the receiver's model is the sender's; else raises WireError."""
        card = self.own(parcel).card
        if card.sender != receiver.spec:
            raise WireError(f"parcel from another model: {differing(card.sender, receiver.spec)}")
        return card


def differing(a: ModelSpec, b: ModelSpec) -> str:
    """The fields in which two models differ, as words."""
    names = [n for n in ModelSpec.__slots__ if n != "name" and getattr(a, n) != getattr(b, n)]
    return ", ".join(f"{n} {getattr(a, n)} against {getattr(b, n)}" for n in names)


def require_same_model(kind: str, sender: ModelSpec, receiver: ModelSpec) -> None:
    """Raises IncompatibleModels unless both are one model."""
    if sender != receiver:
        raise IncompatibleModels(
            f"{kind} hands K/V from {sender.name} to {receiver.name}, which is another model ({differing(sender, receiver)});"
            " choose strategy=text or text_full, or one model"
        )


def require_same_tokens(kind: str, sender: ModelSpec, receiver: ModelSpec) -> None:
    """Raises IncompatibleModels unless both give every token the same id."""
    if sender.tokenizer_id != receiver.tokenizer_id:
        raise IncompatibleModels(
            f"{kind} hands token ids from {sender.name} to {receiver.name}, whose tokenizer is another"
            f" ({sender.tokenizer_id} against {receiver.tokenizer_id}); choose strategy=text or text_full"
        )
