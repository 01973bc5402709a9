"""A peer: the `avp` package's own hand-off of K/V (pip install 'avpbench[avp]'), with the token ids that its message lacks."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch

from avpbench.core import AgentState, KVCache, ModelSpec, Parcel, Prefix
from avpbench.engine.cache import as_dynamic, as_rows
from avpbench.engine.engine import Engine
from avpbench.errors import NotFound, WireError, cause
from avpbench.strategies.strategy import Strategy, require_same_model
from avpbench.strategies.tokens import pack, tensor, unpack


def context_class() -> Any:
    """AVP's class of contexts. Raises NotFound without the package."""
    try:
        from avp.context import AVPContext
    except ImportError as error:
        raise NotFound("strategy avp_raw wants the avp package; pip install 'avpbench[avp]', or choose raw") from error
    return AVPContext


@final
class AvpRaw(Strategy):
    """`AVPContext.to_bytes` at the sender, `from_bytes` at the receiver; no hop of 4 GiB or more, no dropped tokens."""

    kind = "avp_raw"
    thinks = True

    def __init__(self) -> None:
        context_class()

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        require_same_model(self.kind, sender, receiver)

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        cache, spec = state.cache, state.spec
        context = context_class()(
            past_key_values=as_dynamic(cache), model_hash=spec.weights_id, num_steps=0, seq_len=cache.span, model_family=spec.family,
            hidden_dim=sender.model.config.hidden_size, num_layers=spec.num_layers,
        )  # fmt: skip
        message = torch.from_numpy(np.frombuffer(bytearray(context.to_bytes()), dtype=np.uint8))
        return Parcel(self.card(state, span=cache.span), pack(state) | {"avp": message})

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        spec = self.own_model(parcel, receiver).sender
        token_ids, soft_NE = unpack(parcel, receiver)
        message = tensor(parcel, "avp", torch.uint8, 1)
        try:
            context = context_class().from_bytes(message.numpy().tobytes(), device=str(receiver.device))
        except Exception as error:  # the package raises many kinds for a message that it cannot read
            raise WireError(f"AVP message cannot be read: {cause(error)}") from error
        keys, values = as_rows(context.past_key_values)
        shape = (spec.num_kv_heads, context.seq_len, spec.head_dim)
        if len(keys) != spec.num_layers or any(tuple(t.shape) != shape or t.dtype != receiver.model.dtype for t in (*keys, *values)):
            raise WireError(f"AVP message of {len(keys)} layers; {spec.name} wants {spec.num_layers} of {shape} in {spec.dtype}")
        if not context.seq_len <= len(token_ids) <= context.seq_len + 1:
            raise WireError(f"AVP message of {context.seq_len} tokens for {len(token_ids)} token ids")
        positions_T = torch.arange(context.seq_len, device=receiver.device)
        return Prefix(token_ids=token_ids, soft_NE=soft_NE, cache=KVCache(keys, values, positions_T, context.seq_len))
