"""What queries attend to in a cache, and what they read there, without a full attention matrix.

Axes: A attention heads, H kv heads, G attention heads a kv head, P queries, T columns of the cache, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from avpbench.core import KVCache, Queries


def attentions(queries: Queries, cache: KVCache) -> Iterator[Tensor]:
    """Each layer's causal attention_HGPT of these queries over this cache alone."""
    hidden_PT = (cache.positions_T.cpu() > queries.positions_P[:, None]).to(cache.positions_T.device)
    seen = int((~hidden_PT).all(0).sum())  # columns that every query sees; they come first
    for queries_APD, keys_HTD in zip(queries.layers, cache.keys_HTD, strict=True):
        scaled_APD = queries_APD.float() / keys_HTD.shape[-1] ** 0.5
        grouped_HGPD = scaled_APD.reshape(keys_HTD.shape[0], -1, *queries_APD.shape[1:])
        logits_HGPT = torch.einsum("hgpd,htd->hgpt", grouped_HGPD, keys_HTD.float())
        logits_HGPT[..., seen:].masked_fill_(hidden_PT[:, seen:], -torch.inf)
        yield logits_HGPT.softmax(-1)


def demand(queries: Queries, cache: KVCache) -> Tensor:
    """How much these queries attend to each position that the cache stands for, demand_S: a mean over queries, heads and layers."""
    mean_T = torch.stack([attention.mean((0, 1, 2)) for attention in attentions(queries, cache)]).mean(0).cpu()
    return torch.zeros(cache.span).scatter_(0, cache.positions_T.cpu(), mean_T)


def output_errors(queries: Queries, truth: KVCache, other: KVCache) -> list[float]:
    """Per layer, how far what the queries read in `other` is from what they read in `truth`, as a share of the latter's norm."""
    errors = []
    read = [
        [
            torch.einsum("hgpt,htd->hgpd", attention, values_HTD.float())
            for attention, values_HTD in zip(attentions(queries, c), c.values_HTD, strict=True)
        ]
        for c in (truth, other)
    ]
    for wanted, got in zip(*read, strict=True):
        errors.append(float(torch.linalg.vector_norm(got - wanted) / torch.linalg.vector_norm(wanted).clamp(min=1e-30)))
    return errors
