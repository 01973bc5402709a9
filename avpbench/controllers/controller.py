"""Who decides how many bits each token gets.

Axes: N tokens to be coded, B blocks of them (tokens that share a level), K levels; H kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from avpbench.codecs.bias import NO_BIAS, Biases
from avpbench.codecs.codec import blocks
from avpbench.codecs.levels import NATIVE, Levels
from avpbench.core import Captured, KVCache
from avpbench.errors import ControllerError

_LEAST = 1e-3  # of the mean weight: no token is free to lose


@final
@dataclass(frozen=True, eq=False)
class Request:
    """What a controller is asked: a level for each token that is to be coded.

    Args:
        token_ids: the whole conversation.
        cache: the sender's whole cache.
        captured: what the engine kept of the sender's passes, as far as `needs` asked for it.
        fresh_N: the columns of the cache that are to be coded, in order.
        rows: their values: every layer's keys_HND, then values_HND.
        table: the levels.
        protected_B: blocks that are native whatever the controller says.
        biases: what is taken from a row before it is coded.
    """

    token_ids: tuple[int, ...]
    cache: KVCache
    captured: Captured
    fresh_N: Tensor
    rows: Sequence[Tensor]
    table: Levels
    protected_B: Tensor
    biases: Biases = NO_BIAS

    @cached_property
    def sizes_B(self) -> Tensor:
        """Tokens of each block."""
        return torch.tensor(blocks(len(self.fresh_N), self.table.codec.block))

    @cached_property
    def costs_BK(self) -> Tensor:
        """Bytes of each block at each level."""
        by_size = {n: [self.table.num_bytes(level, n) for level in self.table.names] for n in set(self.sizes_B.tolist())}
        return torch.tensor([by_size[n] for n in self.sizes_B.tolist()])

    @cached_property
    def smallest_step(self) -> int:
        """Bytes of the cheapest raise that a block can get."""
        return int(self.costs_BK.diff(dim=1).min())

    @cached_property
    def errors_BK(self) -> Tensor:
        """The squared error of each block at each level, as a share of what its rows hold a token, summed over rows."""
        table = self.table
        places = {width: k for k, width in enumerate(table.codec.widths)}
        errors_NK = torch.zeros(len(self.fresh_N), len(table.names))
        grades = [{r: (g.width, g.treatment) for g in table.groups(level) for r in g.rows} for level in table.codec.widths]
        for row, values_HND in enumerate(self.rows):
            treatment = grades[0][row][1]
            if row in self.biases:
                found = table.codec.errors_without(values_HND[None], self.biases[row], table.codec.widths, treatment)
            else:
                found = table.codec.errors(values_HND[None], table.codec.widths, treatment)
            errors_WRN, power_RN = found
            scale = 1 / power_RN.mean().clamp(min=1e-30)
            errors_NK[:, 0] += (power_RN[0] * scale).cpu()
            wanted = [places[grade[row][0]] for grade in grades]
            errors_NK[:, 1:-1] += (errors_WRN[wanted, 0] * scale).T.cpu()
        return self.blockwise(errors_NK)

    def blockwise(self, values_N: Tensor) -> Tensor:
        """Sums over the tokens of each block."""
        if self.table.codec.block == 1:
            return values_N
        place = torch.repeat_interleave(torch.arange(len(self.sizes_B)), self.sizes_B)
        return values_N.new_zeros(len(self.sizes_B), *values_N.shape[1:]).index_add_(0, place, values_N)

    def of_fresh(self, values_T: Tensor, first: int) -> Tensor:
        """The values_N of the tokens to be coded, given those of positions from `first` on; 0 where none is given."""
        positions_N = self.cache.positions_T[self.fresh_N].cpu() - first
        known_N = (positions_N >= 0) & (positions_N < len(values_T))
        return values_T[positions_N.clamp(0, len(values_T) - 1)].where(known_N, values_T.new_zeros(()))

    def tokenwise(self, places_B: Tensor) -> Tensor:
        """Levels_N from places in `table.names`, protected blocks native."""
        names = torch.tensor(self.table.names, dtype=torch.uint8)
        levels_B = torch.where(self.protected_B, NATIVE, names[places_B]).to(torch.uint8)
        return levels_B.repeat_interleave(self.sizes_B)


class Controller:
    """Ranks tokens, or spends the budget by a rule of its own. Stateless: the same request has the same answer.

    A controller that ranks writes `score`; `allocate` then spends the budget where a byte takes most off the sum of
    score times measured error.
    """

    needs: frozenset[str] = frozenset()  # which captures: see engine.capture

    @property
    def label(self) -> str:
        """Its name in records."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def score(self, request: Request) -> Tensor | None:
        """What an error in each token costs, score_N >= 0, in any unit; None where the controller does not rank."""
        return None

    def allocate(self, request: Request, score_N: Tensor | None, budget_bytes: int) -> Tensor:
        """A level for each token, levels_N of uint8, within so many bytes of codes."""
        if score_N is None:
            raise ControllerError(f"controller {self.label} neither scores nor allocates; write one of the two")
        return spend(request, score_N, budget_bytes)

    def captures(self) -> frozenset[str]:
        """What it needs, those it is made of included."""
        return self.needs


def require_score(name: str, score_N: Tensor, num_tokens: int) -> Tensor:
    """The score on the host, in float32. Raises ControllerError unless it is one finite number >= 0 a token."""
    if not isinstance(score_N, Tensor) or tuple(score_N.shape) != (num_tokens,) or not score_N.is_floating_point():
        got = f"{score_N.dtype} {list(score_N.shape)}" if isinstance(score_N, Tensor) else type(score_N).__name__
        raise ControllerError(f"controller {name} scored {got}; wanted floats of shape [{num_tokens}], one a token to be coded")
    score_N = score_N.detach().float().cpu()
    if not bool(score_N.isfinite().all()) or bool((score_N < 0).any()):
        raise ControllerError(f"controller {name} gave scores from {score_N.min()} to {score_N.max()}; wanted finite ones, 0 or more")
    return score_N


def require_plan(name: str, levels_N: Tensor, request: Request, budget_bytes: int) -> None:
    """Raises ControllerError unless this is a listed level a token, block for block, within the budget."""
    wanted = len(request.fresh_N)
    if not isinstance(levels_N, Tensor) or levels_N.dtype != torch.uint8 or tuple(levels_N.shape) != (wanted,):
        got = f"{levels_N.dtype} {list(levels_N.shape)}" if isinstance(levels_N, Tensor) else type(levels_N).__name__
        raise ControllerError(f"controller {name} planned {got}; wanted uint8 levels of shape [{wanted}], one a token to be coded")
    strange = ~torch.isin(levels_N, torch.tensor(request.table.names, dtype=torch.uint8))
    if bool(strange.any()):
        raise ControllerError(f"controller {name} planned level {int(levels_N[strange][0])}; the codec has {list(request.table.names)}")
    first_B = request.sizes_B.cumsum(0) - request.sizes_B
    if not torch.equal(levels_N[first_B].repeat_interleave(request.sizes_B), levels_N):
        raise ControllerError(f"controller {name} planned several levels within a block of {request.table.codec.block} tokens; wanted one")
    if bool((levels_N[first_B][request.protected_B] != NATIVE).any()):
        raise ControllerError(f"controller {name} planned protected tokens coarser; they stay native ({NATIVE})")
    cost = plan_bytes(levels_N, request)
    if cost > budget_bytes:
        raise ControllerError(f"controller {name} planned {cost} bytes of codes; the budget leaves {budget_bytes}")


def plan_bytes(levels_N: Tensor, request: Request) -> int:
    """Bytes of the codes of a plan."""
    first_B = request.sizes_B.cumsum(0) - request.sizes_B
    names = torch.tensor(request.table.names)
    places_B = (levels_N[first_B].long()[:, None] == names).long().argmax(1)
    return int(request.costs_BK.gather(1, places_B[:, None]).sum())


def spend(request: Request, score_N: Tensor, budget_bytes: int) -> Tensor:
    """Levels_N that spend the budget greedily by gain a byte, and then what is left on whatever still fits.

    The gain of a raise is score x error taken away. Raises of one block are ordered along the lower convex hull of its
    (bytes, error) curve, so the greedy order is the best for every budget that it meets exactly.
    """
    costs_BK = request.costs_BK
    highest = score_N.double().max().clamp(min=torch.finfo(torch.float64).tiny)
    share_N = score_N.double() / highest  # first, so that no unit is too large or too small
    weight_N = (share_N / share_N.mean().clamp(min=1e-30)).float() + _LEAST
    weight_B = request.blockwise(weight_N) / request.sizes_B
    loss_BK = weight_B[:, None] * request.errors_BK
    free_B = ~request.protected_B
    left = budget_bytes - int(costs_BK[~free_B, -1].sum())
    places_B = torch.zeros(len(costs_BK), dtype=torch.long)
    ratio, cost, block, target = _raises(loss_BK, costs_BK, free_B)
    order = torch.argsort(ratio, descending=True, stable=True)
    paid = cost[order].cumsum(0) <= left
    num_paid = int(paid.long().cumprod(0).sum())
    taken = order[:num_paid]
    places_B.scatter_reduce_(0, block[taken], target[taken], "amax")
    left -= int(cost[taken].sum())
    return request.tokenwise(_fill(places_B, loss_BK, costs_BK, free_B, left))


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
