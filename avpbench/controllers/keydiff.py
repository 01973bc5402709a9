"""Keys unlike the others stand for what is said only once (KeyDiff, arXiv 2504.15364)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request


@final
class KeyDiff(Controller):
    """One minus the cosine between a key and the mean direction of its layer and head, a mean over both."""

    def score(self, request: Request) -> Tensor:
        parts = []
        for layer_HTD in request.cache.keys_HTD:
            unit_HTD = torch.nn.functional.normalize(layer_HTD.float(), dim=-1)
            mean_HD = torch.nn.functional.normalize(unit_HTD.mean(1), dim=-1)
            parts.append(1 - torch.einsum("htd,hd->ht", unit_HTD[:, request.fresh_N], mean_HD).mean(0))
        return torch.stack(parts).mean(0).clamp(min=0)
