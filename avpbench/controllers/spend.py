"""The one allocator: spends a budget by what each byte takes off the weighted error.

Axes: N tokens to be coded, B blocks of them, K levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avpbench.controllers.request import Request


def spend(request: Request, score_N: Tensor, budget_bytes: int) -> Tensor:
    """Levels_N that spend the budget greedily by gain a byte, and then what is left on whatever still fits.

    The gain of a raise is weight x error taken away. Raises of one block are ordered along the lower convex hull of its
    (bytes, error) curve, so the greedy order is the best for every budget that it meets exactly.
    """
    free_N = ~request.protected_N
    weight_N = torch.zeros(len(score_N))
    weight_N[free_N] = weights(score_N[free_N], request.spread)
    weight_B = request.blockwise(weight_N) / request.sizes_B
    loss_BK, left = weight_B[:, None] * request.errors_BK, request.unprotected(budget_bytes)
    return request.tokenwise(assigned(loss_BK, request.costs_BK, ~request.protected_B, left))


def weights(score_N: Tensor, spread: float) -> Tensor:
    """What an error in each token counts, by its rank alone: log-normal, equal scores alike; `spread` is the standard deviation of its log.

    A controller says which tokens matter, not by how much: one's norms lie close together, another's attention spans orders of
    magnitude, and without this the spread of a score would decide, not its order.
    """
    _, place_N, counts_U = torch.unique(score_N, return_inverse=True, return_counts=True)
    rank_U = counts_U.cumsum(0) - counts_U / 2  # the middle of those that are equal
    return torch.exp(spread * torch.special.ndtri(rank_U / len(score_N)))[place_N]


def assigned(loss_BK: Tensor, costs_BK: Tensor, free_B: Tensor, left: int) -> Tensor:
    """Places_B within so many bytes for the free blocks; the others stay at their first."""
    places_B = torch.zeros(len(costs_BK), dtype=torch.long)
    ratio, cost, block, target = _raises(loss_BK, costs_BK, free_B)
    order = torch.argsort(ratio, descending=True, stable=True)
    paid = cost[order].cumsum(0) <= left
    num_paid = int(paid.long().cumprod(0).sum())
    taken = order[:num_paid]
    places_B.scatter_reduce_(0, block[taken], target[taken], "amax")
    return _fill(places_B, loss_BK, costs_BK, free_B, left - int(cost[taken].sum()))


def _raises(loss_BK: Tensor, costs_BK: Tensor, free_B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every raise along the hulls: its gain a byte, its bytes, its block and where it leads."""
    place_B = torch.zeros(len(costs_BK), dtype=torch.long)
    parts = []
    alive_B = free_B.clone()
    before_B = torch.full((len(costs_BK),), torch.inf)
    index_B = torch.arange(len(costs_BK))
    for _ in range(costs_BK.shape[1] - 1):
        here = place_B[:, None]
        ratio_BK = _ratio(loss_BK, costs_BK, here)
        best_B = ratio_BK.argmax(1)
        ratio_B = torch.minimum(ratio_BK.gather(1, best_B[:, None])[:, 0], before_B)  # no raise before the one it stands on
        alive_B &= ratio_B > 0
        if not bool(alive_B.any()):
            break
        bytes_B = (costs_BK.gather(1, best_B[:, None]) - costs_BK.gather(1, here))[:, 0]
        parts.append((ratio_B[alive_B], bytes_B[alive_B], index_B[alive_B], best_B[alive_B]))
        place_B, before_B = torch.where(alive_B, best_B, place_B), ratio_B
    if not parts:
        none = torch.zeros(0, dtype=torch.long)
        return torch.zeros(0), none, none, none
    ratio, cost, block, target = (torch.cat(one) for one in zip(*parts, strict=True))
    return ratio, cost, block, target


def _ratio(loss_BK: Tensor, costs_BK: Tensor, here_B1: Tensor) -> Tensor:
    """Gain a byte of raising each block from where it is to each higher level; -1 elsewhere."""
    gain = loss_BK.gather(1, here_B1) - loss_BK
    more = costs_BK - costs_BK.gather(1, here_B1)
    return torch.where(more > 0, gain.clamp(min=1e-30) / more.clamp(min=1), -1.0)


def _fill(places_B: Tensor, loss_BK: Tensor, costs_BK: Tensor, free_B: Tensor, left: int) -> Tensor:
    """Raises one block after another as long as any raise still fits: less than the smallest step stays unspent."""
    while True:
        here = places_B[:, None]
        more = costs_BK - costs_BK.gather(1, here)
        fits = (more > 0) & (more <= left) & free_B[:, None]
        if not bool(fits.any()):
            return places_B
        ratio = torch.where(fits, _ratio(loss_BK, costs_BK, here), -2.0)
        block, level = divmod(int(ratio.argmax()), costs_BK.shape[1])
        left -= int(more[block, level])
        places_B = places_B.clone()
        places_B[block] = level
