"""How much some queries attend to a cache's tokens, without a full attention matrix.

Axes: P queries, N tokens to be coded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avpbench.controllers.controller import captured
from avpbench.controllers.request import Request
from avpbench.core import Queries
from avpbench.engine.attention import attentions


def received(queries: Queries | None, request: Request) -> Tensor:
    """The attention_PN that each query gives each token to be coded, a mean over layers and heads."""
    held = captured(queries, "these queries were")
    parts = [layer_HGPT.mean((0, 1)) for layer_HGPT in attentions(held, request.cache)]
    return torch.stack(parts).mean(0)[:, request.fresh_N]


def smoothed(score_N: Tensor, width: int) -> Tensor:
    """A running mean over this many tokens, an odd number; the ends repeat."""
    width = min(width, 2 * len(score_N) - 1)
    padded = torch.nn.functional.pad(score_N[None, None], (width // 2, width // 2), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, width, stride=1)[0, 0]
