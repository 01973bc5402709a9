"""Token ids, and latent inputs at their places: the receiver recomputes everything. The reference."""

from __future__ import annotations

from typing import final

from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.errors import WireError
from avpbench.strategies.strategy import Strategy, differing, require_same_tokens
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
        sender, mine = self.own(parcel).card.sender, receiver.spec
        token_ids, soft_NE = unpack(parcel, receiver)
        if sender.tokenizer_id != mine.tokenizer_id or (soft_NE is not None and sender != mine):
            raise WireError(f"parcel from another model: {differing(sender, mine)}")
        return Prefix(token_ids=token_ids, soft_NE=soft_NE)
