"""Token ids, and latent inputs at their places: the receiver recomputes everything. The reference."""

from __future__ import annotations

from typing import final

from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.strategies.strategy import Strategy, require_same_tokens
from avpbench.strategies.tokens import pack, unpack


@final
class Reprefill(Strategy):
    """Hands over the same inputs as `raw` and none of its work, so its outputs are the same and its cost is not."""

    kind = "reprefill"
    thinks = True

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        require_same_tokens(self.kind, sender, receiver)

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        return Parcel(self.card(state), pack(state))

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        token_ids, soft_NE = unpack(self.own(parcel), receiver)
        return Prefix(token_ids=token_ids, soft_NE=soft_NE)
