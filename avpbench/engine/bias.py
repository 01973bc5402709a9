"""The key projection's bias as it lies in a cache: turned by RoPE to each token's position.

In Qwen2 it outweighs everything else in some layers (norms of 605 and 921 against a median of 22), and codes of few bits
then hold the bias and little else. RoPE is linear, so it can be taken from the keys before coding and put back by
any receiver with the same weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from avpbench.codecs.bias import NO_BIAS, Biases, Rope


def key_bias(model: Any, positions_T: Tensor) -> Biases:
    """Per layer what the bias is at these positions, in float32; layers without one are absent."""
    attentions = {k: layer.self_attn for k, layer in enumerate(model.model.layers)}
    with_one = {layer: one for layer, one in attentions.items() if getattr(one.k_proj, "bias", None) is not None}
    if not with_one:
        return NO_BIAS
    heads = {layer: one.k_proj.bias.detach().float().view(-1, one.head_dim) for layer, one in with_one.items()}
    some = next(iter(heads.values()))
    cos, sin = model.model.rotary_emb(some, positions_T.to(some.device)[None])
    return Biases(Rope(cos[0].float(), sin[0].float()), heads)
