"""The control of every controller: its own levels, dealt out at random."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench import digest
from avpbench.checks import whole
from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request


@final
class Random(Controller):
    """A seeded permutation of another controller's plan over the unprotected blocks; a short last block keeps its level.

    Args:
        of: the controller whose plan is permuted.
        seed: of the permutation, with the conversation's ids.
    """

    def __init__(self, of: Controller, seed: int) -> None:
        whole("strategy.controller.seed", seed, 0)
        self.of, self.needs, self.seed = of, of.needs, seed

    @property
    def label(self) -> str:
        return f"random({self.of.label},{self.seed})"

    def score(self, request: Request) -> Tensor | None:
        return self.of.score(request)

    def allocate(self, request: Request, score_N: Tensor | None, budget_bytes: int) -> Tensor:
        levels_N = self.of.allocate(request, score_N, budget_bytes)
        sizes_B = request.sizes_B
        levels_B = levels_N[request.first_B]
        free_B = ~request.protected_B
        free = (free_B & (sizes_B == sizes_B[free_B].max())).nonzero()[:, 0] if bool(free_B.any()) else free_B.nonzero()[:, 0]
        salt = digest.seed_of(f"{self.seed}/{request.token_ids}")
        order = torch.randperm(len(free), generator=torch.Generator().manual_seed(salt))
        levels_B[free] = levels_B[free[order]]
        return levels_B.repeat_interleave(sizes_B)
