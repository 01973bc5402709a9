"""The first tokens and the latest matter most (sinks and a window, arXiv 2309.17453)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.checks import whole
from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request


@final
class Recency(Controller):
    """A score that falls with a token's age, and is full for the first `sinks` tokens of a conversation."""

    def __init__(self, sinks: int) -> None:
        whole("strategy.controller.sinks", sinks, 0)
        self.sinks = sinks

    def score(self, request: Request) -> Tensor:
        positions_N = request.cache.positions_T[request.fresh_N].cpu()
        age_N = (request.cache.span - positions_N).float()
        return torch.where(positions_N < self.sinks, 1.0, 1 / age_N)
