"""What a controller is asked.

Axes: N tokens to be coded, F of them measured, B blocks of them (tokens that share a level), K levels, W widths; R rows, H kv
heads, D head size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from avpbench.codecs.bias import NO_BIAS, Biases
from avpbench.codecs.codec import blocks
from avpbench.codecs.coded import chunks, of
from avpbench.codecs.levels import NATIVE, Levels
from avpbench.core import Captured, KVCache

_LONG = 2**19  # values of a row: from here on some rows speak for all, since measuring takes longer than coding


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
        protected_N: tokens that are native whatever the controller says: some first and some last ones.
        spread: how far apart ranks set the weights of errors (spend.py).
        biases: what is taken from a row before it is coded.
    """

    token_ids: tuple[int, ...]
    cache: KVCache
    captured: Captured
    fresh_N: Tensor
    rows: Sequence[Tensor]
    table: Levels
    protected_N: Tensor
    spread: float
    biases: Biases = NO_BIAS

    @cached_property
    def sizes_B(self) -> Tensor:
        """Tokens of each block; a protected token is a block of its own, since no scale of others' is cut for it."""
        found: list[int] = []
        runs, counts = torch.unique_consecutive(self.protected_N, return_counts=True)
        for protected, count in zip(runs.tolist(), counts.tolist(), strict=True):
            found += blocks(count, 1 if protected else self.table.codec.block)
        return torch.tensor(found)

    @cached_property
    def first_B(self) -> Tensor:
        """The first token of each block."""
        return self.sizes_B.cumsum(0) - self.sizes_B

    @cached_property
    def protected_B(self) -> Tensor:
        """The blocks of protected tokens."""
        return self.protected_N[self.first_B]

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
        """The squared error of each block at each level, measured, as a share of what its rows hold a token, summed over rows; of a
        long cache over every fourth row."""
        table = self.table
        places = {width: k for k, width in enumerate(table.codec.widths)}
        shares = table.codec.block > 1  # scales among tokens: protected ones, which are blocks of their own, are no part of them
        free_F = (~self.protected_N if shares else torch.ones_like(self.protected_N)).nonzero()[:, 0]
        errors_FK = torch.zeros(len(free_F), len(table.names))
        grades = [{r: (g.width, g.treatment) for g in table.groups(level) for r in g.rows} for level in table.codec.widths]
        for some in self._alike({row: treatment for row, (_, treatment) in grades[0].items()}, len(free_F)):
            errors_WRF, power_RF = self._measured(some, free_F, grades[0][some[0]][1])
            scale_R1 = 1 / power_RF.mean(1, keepdim=True).clamp(min=1e-30)
            errors_FK[:, 0] += (power_RF * scale_R1).sum(0).cpu()
            for r, row in enumerate(some):
                wanted = [places[grade[row][0]] for grade in grades]
                errors_FK[:, 1:-1] += (errors_WRF[wanted, r] * scale_R1[r]).T.cpu()
        errors_NK = torch.zeros(len(self.fresh_N), len(table.names))
        errors_NK[free_F] = errors_FK
        return self.blockwise(errors_NK)

    def _alike(self, treatments: Mapping[int, str], num_tokens: int) -> list[list[int]]:
        """Rows to be measured in one call: of one treatment, all with a bias or all without, many of them where tokens are few."""
        values = self.table.spec.num_kv_heads * num_tokens * self.table.spec.head_dim
        alike: dict[tuple[str, bool], list[int]] = defaultdict(list)
        for row in range(0, self.table.num_rows, 1 if values < _LONG else 4):
            alike[treatments[row], row in self.biases].append(row)
        return [list(part) for rows in alike.values() for part in chunks(rows, values)]

    def _measured(self, some: Sequence[int], free_F: Tensor, treatment: str) -> tuple[Tensor, Tensor]:
        """These rows' errors_WRF and power_RF."""
        codec, chosen = self.table.codec, free_F.to(self.rows[some[0]].device)
        picked, biases = [of(self.rows[row], chosen) for row in some], self.biases.of(chosen)
        if len(some) == 1:
            return codec.errors(picked[0][None], codec.widths, treatment, biases.get(some[0]))
        plain_RHFD = torch.stack([biases.less(row, x) for row, x in zip(some, picked, strict=True)])
        return codec.errors(plain_RHFD, codec.widths, treatment)

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

    def places(self, levels_N: Tensor) -> Tensor:
        """Places_B in `table.names` of a plan: `tokenwise` turned round."""
        return (levels_N[self.first_B].long()[:, None] == torch.tensor(self.table.names)).long().argmax(1)

    def unprotected(self, budget_bytes: int) -> int:
        """What a budget leaves for the tokens that are not protected."""
        return budget_bytes - int(self.costs_BK[self.protected_B, -1].sum())

    def at(self, level: int) -> Tensor:
        """Levels_N that are one level but for protected tokens."""
        return self.tokenwise(torch.full((len(self.sizes_B),), self.table.names.index(level)))
