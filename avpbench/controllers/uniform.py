"""The baseline: every token alike. Between two levels it is an evenly strided mixture of both."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request


@final
class Uniform(Controller):
    """The highest level that all blocks can have, and the next one for as many as fit, evenly strided.

    With blocks of several tokens, what is left may be more than the raise of a short block that has the next level already: two levels
    are mixed, not three.
    """

    def allocate(self, request: Request, score_N: Tensor | None, budget_bytes: int) -> Tensor:
        costs_BK, free_B, left = request.costs_BK, ~request.protected_B, request.unprotected(budget_bytes)
        level = _highest(costs_BK[free_B].sum(0), left)
        places_B = torch.full((len(costs_BK),), level)
        if level + 1 < costs_BK.shape[1] and bool(free_B.any()):
            left -= int(costs_BK[free_B, level].sum())
            free = free_B.nonzero()[:, 0]
            steps = (costs_BK[:, level + 1] - costs_BK[:, level])[free]
            count = min(len(free), left // int(steps.min()))
            while int(steps[chosen := strided(len(free), count)].sum()) > left:
                count -= 1
            left -= int(steps[chosen].sum())
            for k in (~chosen).nonzero()[:, 0].tolist() if request.table.codec.block > 1 else []:  # a short block may still fit
                if int(steps[k]) <= left:
                    chosen[k], left = True, left - int(steps[k])
            places_B[free[chosen]] = level + 1
        return request.tokenwise(places_B)


def _highest(totals_K: Tensor, left: int) -> int:
    """The last level whose total fits."""
    return int((totals_K <= left).nonzero()[-1]) if bool((totals_K <= left).any()) else 0


def strided(length: int, count: int) -> Tensor:
    """`count` of `length` places, as evenly as can be."""
    chosen = torch.zeros(length, dtype=torch.bool)
    chosen[(2 * torch.arange(count) + 1) * length // (2 * count) if count else []] = True  # neither end is favoured
    return chosen
