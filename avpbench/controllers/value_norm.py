"""A token with a long value moves the output most wherever it is attended to (CriticalKV, arXiv 2502.03805)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request


@final
class ValueNorm(Controller):
    """A value's norm, relative to its layer and head, a mean over both."""

    def score(self, request: Request) -> Tensor:
        norms = [torch.linalg.vector_norm(layer[:, request.fresh_N], dim=-1, dtype=torch.float64) for layer in request.cache.values_HTD]
        return torch.stack([(n / n.mean(1, keepdim=True).clamp(min=1e-30)).mean(0) for n in norms]).mean(0).float()
