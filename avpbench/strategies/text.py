"""What the agents said, as JSON: the usual way, and AVP's baseline."""

from __future__ import annotations

from typing import final

from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.strategies.strategy import Strategy
from avpbench.strategies.words import TEXT, prefix, rows


@final
class Text(Strategy):
    """Completions only, all of them so far; nothing of what the agents were asked."""

    kind = TEXT
    thinks = False

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Words go to every model."""

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        return Parcel(self.card(state, turns=rows(state, whole=False)))

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        return prefix(self.own(parcel))
