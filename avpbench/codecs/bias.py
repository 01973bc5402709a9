"""What is taken from keys before they are coded and comes back after: a vector a head, turned by RoPE to each token's position.

Axes: H kv heads, T tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Rope:
    """The rotation at each token's position, in float32."""

    cos_TD: Tensor
    sin_TD: Tensor

    @cached_property
    def pairs(self) -> tuple[Rope, Rope]:
        """Its even columns and its odd ones, each in memory of its own: what kernels read beside pairs of values."""
        even, odd = (Rope(self.cos_TD[:, k::2].contiguous(), self.sin_TD[:, k::2].contiguous()) for k in (0, 1))
        return even, odd


@final
@dataclass(frozen=True, eq=False, slots=True)
class RowBias:
    """One row's: plain_HD cos_TD + across_HD sin_TD."""

    plain_HD: Tensor
    rope: Rope

    @property
    def across_HD(self) -> Tensor:
        """The halves of each head changed over, the new first one negative."""
        half = self.plain_HD.shape[-1] // 2
        return torch.cat([-self.plain_HD[:, half:], self.plain_HD[:, :half]], dim=-1)

    @property
    def values_HTD(self) -> Tensor:
        """In float32."""
        return turned(self.plain_HD[:, None], self.across_HD[:, None], self.rope.cos_TD, self.rope.sin_TD)

    def head_pairs(self, head: int) -> tuple[Tensor, ...]:
        """What `turned` takes for one head's even columns, and then for its odd ones."""
        plain_D, across_D = self.plain_HD[head], self.across_HD[head]
        parts = (
            (plain_D[k::2].contiguous(), across_D[k::2].contiguous(), rope.cos_TD, rope.sin_TD) for k, rope in enumerate(self.rope.pairs)
        )
        return tuple(t for part in parts for t in part)


def turned(plain: Tensor, across: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A vector turned to positions."""
    return plain * cos + across * sin


@final
@dataclass(frozen=True, eq=False, slots=True)
class Biases:
    """By row; rows without one are absent. `rope` is None where there are none."""

    rope: Rope | None = None
    heads: Mapping[int, Tensor] = field(default_factory=dict)

    def __contains__(self, row: int) -> bool:
        return row in self.heads

    def __getitem__(self, row: int) -> RowBias:
        assert self.rope is not None
        return RowBias(self.heads[row], self.rope)

    def get(self, row: int) -> RowBias | None:
        """A row's, if it has one."""
        return self[row] if row in self.heads else None

    def of(self, chosen: Tensor) -> Biases:
        """Those of some tokens, given by their places; the same where they are all."""
        if self.rope is None or len(chosen) == len(self.rope.cos_TD):
            return self
        return Biases(Rope(self.rope.cos_TD[chosen], self.rope.sin_TD[chosen]), self.heads)

    def less(self, row: int, values_HTD: Tensor) -> Tensor:
        """A row's values without its bias, in float32 where it has one."""
        return values_HTD.float() - self[row].values_HTD if row in self else values_HTD


NO_BIAS = Biases()
