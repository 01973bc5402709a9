"""The first part of a raw hand-off: how much of the prefix an answer needs. For assays, not a way to hand over."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from avpbench.checks import number
from avpbench.core import LATENT, AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.strategies.raw import Raw
from avpbench.strategies.strategy import Strategy


@final
class Partial(Strategy):
    """K/V and ids of the first `fraction` of the tokens that the sender holds, cut anew at every hop: 0 hands over nothing, 1 is raw.

    What follows takes the positions right behind the cut.
    """

    kind = "partial"
    thinks = True

    def __init__(self, fraction: float) -> None:
        number("strategy.fraction", fraction, 0, 1)
        self.fraction, self._raw = float(fraction), Raw()

    @property
    def label(self) -> str:
        return f"{self.kind} {self.fraction:g}"

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        self._raw.check(sender, receiver)

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        parcel = self._raw.export(_first(state, round(self.fraction * len(state.token_ids))), sender, receiver)
        return replace(parcel, card=replace(parcel.card, kind=self.kind))

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        card = replace(self.own(parcel).card, kind=self._raw.kind)
        return self._raw.inject(replace(parcel, card=card), receiver)


def _first(state: AgentState, count: int) -> AgentState:
    """The state as it would stand had it held its first `count` tokens only."""
    ids = state.token_ids[:count]
    soft_NE = None if state.soft_NE is None or LATENT not in ids else state.soft_NE[: ids.count(LATENT)]
    return replace(state, token_ids=ids, soft_NE=soft_NE, cache=state.cache.first(count))
