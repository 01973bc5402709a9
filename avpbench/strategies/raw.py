"""K/V in the model's own dtype: nothing is recomputed, nothing is lost."""

from __future__ import annotations

from typing import final

import torch

from avpbench.core import AgentState, KVCache, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.errors import WireError
from avpbench.strategies.strategy import Strategy, require_same_model
from avpbench.strategies.tokens import pack, tensor, unpack


@final
class Raw(Strategy):
    """Hands over the sender's whole cache. Costs 2 L H D values a token on the wire and no recomputation."""

    kind = "raw"
    thinks = True

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        require_same_model(self.kind, sender, receiver)

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        cache = state.cache
        tensors = pack(state) | {"positions": cache.positions_T.to(torch.int32)}
        for layer, (keys, values) in enumerate(zip(cache.keys_HTD, cache.values_HTD, strict=True)):
            tensors[f"keys.{layer}"], tensors[f"values.{layer}"] = keys, values
        return Parcel(self.card(state, span=cache.span), tensors)

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        card, spec = self.own_model(parcel, receiver), receiver.spec
        token_ids, soft_NE = unpack(parcel, receiver)
        positions_T = tensor(parcel, "positions", torch.int32, 1).long()
        span = card.body.get("span")
        if type(span) is not int or not 0 <= span <= len(token_ids) <= span + 1:
            raise WireError(f"span must be {len(token_ids) - 1} or {len(token_ids)} for {len(token_ids)} tokens, got {span!r}")
        if len(positions_T) and not (bool((positions_T.diff() > 0).all()) and int(positions_T[0]) >= 0 and int(positions_T[-1]) < span):
            raise WireError(f"positions must increase from 0 or more to below the span of {span}")
        shape = (spec.num_kv_heads, len(positions_T), spec.head_dim)
        halves = {}
        for half in ("keys", "values"):
            layers = [tensor(parcel, f"{half}.{layer}", receiver.model.dtype, 3) for layer in range(spec.num_layers)]
            wrong = next((t for t in layers if tuple(t.shape) != shape), None)
            if wrong is not None:
                raise WireError(f"{half} have shape {tuple(wrong.shape)}; {spec.name} and the positions want {shape}")
            halves[half] = tuple(t.to(receiver.device) for t in layers)
        return Prefix(token_ids=token_ids, soft_NE=soft_NE, cache=KVCache(halves["keys"], halves["values"], positions_T, span))
