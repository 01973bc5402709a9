"""Another controller's ranking turned upside down: if that is no worse, the ranking says nothing."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.controllers.controller import Controller, require_score
from avpbench.controllers.request import Request
from avpbench.errors import ControllerError


@final
class Inverse(Controller):
    """The token that the other ranks highest gets its lowest score, and so on; the scores as such are the same.

    Args:
        of: a controller that ranks.
    """

    def __init__(self, of: Controller) -> None:
        self.of = of

    @property
    def label(self) -> str:
        return f"inverse({self.of.label})"

    def captures(self) -> frozenset[str]:
        return self.of.captures()

    def score(self, request: Request) -> Tensor:
        score_N = self.of.score(request)
        if score_N is None:
            raise ControllerError(f"{self.label}: {self.of.label} ranks no tokens, so its ranking cannot be turned upside down")
        score_N = require_score(self.of.label, score_N, len(request.fresh_N))
        order = score_N.argsort(stable=True)
        turned_N = torch.empty_like(score_N)
        turned_N[order] = score_N[order.flip(0)]
        return turned_N
