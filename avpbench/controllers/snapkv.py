"""What the last tokens attend to, the next ones will too (SnapKV, arXiv 2404.14469)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.checks import whole
from avpbench.controllers.attention import received, smoothed
from avpbench.controllers.controller import Controller, captured
from avpbench.controllers.request import Request
from avpbench.engine.capture import WINDOW
from avpbench.errors import ConfigError


@final
class SnapKV(Controller):
    """The attention of the window's queries, a mean over them, layers and heads, smoothed over neighbouring tokens; the window's own
    tokens come first, as in the paper, since few of its queries see them.

    Args:
        pool: tokens that are smoothed over, an odd number.
    """

    needs = frozenset({WINDOW})

    def __init__(self, pool: int) -> None:
        whole("strategy.controller.pool", pool, 1)
        if pool % 2 == 0:
            raise ConfigError(f"strategy.controller.pool must be odd, got {pool}")
        self.pool = pool

    def score(self, request: Request) -> Tensor:
        window = captured(request.captured.window, "the window's queries were")
        score_N = smoothed(received(window, request).mean(0), self.pool)
        inside_N = request.cache.positions_T[request.fresh_N] >= int(window.positions_P[0])
        return torch.where(inside_N, score_N.max(), score_N)
