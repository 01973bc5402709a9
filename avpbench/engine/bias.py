"""The key projection's bias as it lies in a cache: turned by RoPE to each token's position.

In Qwen2 it outweighs everything else in some layers (norms of 605 and 921 against a median of 22), and codes of few bits
then hold the bias and little else. RoPE is linear, so it can be taken from the keys before coding and put back by
any receiver with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def key_bias(model: Any, positions_T: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Per layer the bias_HTD in float32 at these positions; layers without one are absent."""
    found: dict[int, Tensor] = {}
    rope = None
    for layer in layers:
        attention = model.model.layers[layer].self_attn
        bias = getattr(attention.k_proj, "bias", None)
        if bias is None:
            continue
        if rope is None:
            cos, sin = model.model.rotary_emb(bias.float(), positions_T.to(bias.device)[None])
            rope = cos[0].float(), sin[0].float()
        heads_HD = bias.detach().float().view(-1, attention.head_dim)
        half = attention.head_dim // 2
        turned_HD = torch.cat([-heads_HD[:, half:], heads_HD[:, :half]], dim=-1)
        found[layer] = heads_HD[:, None] * rope[0] + turned_HD[:, None] * rope[1]
    return found
