"""What the last tokens attend to, the next ones will too (SnapKV, arXiv 2404.14469)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from avpbench.checks import whole
from avpbench.controllers.attention import received, smoothed
from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request
from avpbench.engine.capture import WINDOW
from avpbench.errors import ConfigError


@final
class SnapKV(Controller):
    """The attention of the window's queries, a mean over them, layers and heads, smoothed over neighbouring tokens.

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
        return smoothed(received(request.captured.window, request).mean(0), self.pool)
