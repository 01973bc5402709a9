"""Control: nothing is handed over."""

from __future__ import annotations

from typing import final

from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.strategies.strategy import Strategy


@final
class Blank(Strategy):
    """An empty parcel: what the receiver does alone."""

    kind = "blank"
    thinks = True

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Nothing goes to every model."""

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        return Parcel(self.card(state))

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        self.own(parcel)
        return Prefix()
