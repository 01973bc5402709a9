"""Tokens with short keys are attended to most (arXiv 2406.11430)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request


@final
class KeyNorm(Controller):
    """The inverse of a key's norm, relative to its layer and head, a mean over both."""

    def score(self, request: Request) -> Tensor:
        norms = [torch.linalg.vector_norm(layer[:, request.fresh_N], dim=-1, dtype=torch.float64) for layer in request.cache.keys_HTD]
        return (
            torch.stack([(n.mean(1, keepdim=True).clamp(min=1e-30) / n.clamp(min=1e-30)).clamp(max=1e6).mean(0) for n in norms])
            .mean(0)
            .float()
        )
