"""The attention that queries like the last ones would pay, times what it would move (arXiv 2510.00636)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.controllers.controller import Controller, captured
from avpbench.controllers.request import Request
from avpbench.engine.capture import WINDOW


@final
class ExpectedAttention(Controller):
    """softmax(mean(q) k / sqrt(D) + var(q) k^2 / 2D) |v|, a mean over layers and heads.

    The queries are taken as normal with independent coordinates, of the window's mean and variance; in float64, where no square overflows.
    """

    needs = frozenset({WINDOW})

    def score(self, request: Request) -> Tensor:
        window, cache = captured(request.captured.window, "the window's queries were"), request.cache
        parts = []
        for queries_APD, keys_HTD, values_HTD in zip(window.layers, cache.keys_HTD, cache.values_HTD, strict=True):
            heads, dim = keys_HTD.shape[0], keys_HTD.shape[-1]
            grouped_HPD = queries_APD.double().reshape(heads, -1, dim)
            mean_HD, var_HD = grouped_HPD.mean(1), grouped_HPD.var(1, correction=0)
            keys = keys_HTD.double()
            logits_HT = torch.einsum("hd,htd->ht", mean_HD, keys) / dim**0.5 + torch.einsum("hd,htd->ht", var_HD, keys.square()) / (2 * dim)
            norms_HT = torch.linalg.vector_norm(values_HTD, dim=-1, dtype=torch.float64)
            parts.append((logits_HT.softmax(-1) * norms_HT).mean(0)[request.fresh_N])
        return torch.stack(parts).mean(0).float()
