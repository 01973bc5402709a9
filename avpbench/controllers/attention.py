"""How much some queries attend to a cache's tokens, without a full attention matrix.

Axes: A attention heads, H kv heads, P queries, T columns of the cache, N of them to be coded, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from avpbench.controllers.controller import Request
from avpbench.core import KVCache, Queries
from avpbench.errors import ControllerError


def attentions(queries: Queries | None, cache: KVCache) -> Iterator[Tensor]:
    """Each layer's causal attention_HPT, a mean over the heads that share a kv head."""
    if queries is None:
        raise ControllerError("these queries were not captured: a controller names them in `needs`")
    hidden_PT = cache.positions_T.cpu() > queries.positions_P[:, None]
    for queries_APD, keys_HTD in zip(queries.layers, cache.keys_HTD, strict=True):
        heads = keys_HTD.shape[0]
        grouped_HGPD = queries_APD.float().reshape(heads, -1, *queries_APD.shape[1:])
        logits_HGPT = torch.einsum("hgpd,htd->hgpt", grouped_HGPD, keys_HTD.float()) / keys_HTD.shape[-1] ** 0.5
        yield logits_HGPT.masked_fill(hidden_PT.to(keys_HTD.device), -torch.inf).softmax(-1).mean(1)


def received(queries: Queries | None, request: Request) -> Tensor:
    """The attention_PN that each query gives each token to be coded, a mean over layers and heads."""
    parts = [layer_HPT.mean(0)[:, request.fresh_N] for layer_HPT in attentions(queries, request.cache)]
    return torch.stack(parts).mean(0)


def smoothed(score_N: Tensor, width: int) -> Tensor:
    """A running mean over this many tokens."""
    padded = torch.nn.functional.pad(score_N[None, None], (width // 2, width // 2), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, width, stride=1)[0, 0]
