"""The whole transcript as words: the fair rival of `raw`, whose cache holds it all."""

from __future__ import annotations

from typing import final

from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.prompts import as_json
from avpbench.strategies.strategy import Strategy
from avpbench.strategies.words import rows, turns


@final
class TextFull(Strategy):
    """What every agent so far was asked and what it said."""

    kind = "text_full"
    thinks = False

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Words go to every model."""

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        return Parcel(self.card(state, turns=rows(state, whole=True)))

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        return Prefix(text=as_json(turns(self.own(parcel)), whole=True))
