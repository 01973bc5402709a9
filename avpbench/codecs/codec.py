"""How K/V become codes, and codes K/V.

Axes: R rows (a layer's keys or values each), H kv heads, T tokens, D head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from avpbench.codecs.bias import RowBias

KEYS, VALUES = "keys", "values"
_PIECE = 2**16  # values looked at in one go


@final
@dataclass(frozen=True, slots=True)
class Field:
    """A coded tensor [R, H, tokens or blocks, last]: its dtype, its last axis, and which of the two its third one counts."""

    dtype: torch.dtype
    last: int
    per_block: bool = False

    @property
    def num_bytes(self) -> int:
        return self.last * self.dtype.itemsize


class Codec(ABC):
    """Codes some tokens of some rows at a width in bits. Stateless: what it writes is all that is needed to read it.

    A codec that shares scales among tokens does so within blocks of `block` consecutive tokens, the last one shorter.
    Every tensor that `encode` returns has four axes, and along its third one the tensors of two runs of tokens can be
    joined: so codes are forwarded as they are.
    """

    widths: ClassVar[tuple[int, ...]]  # bits of a code, ascending
    block: int = 1

    def treatment(self, half: str) -> str:
        """Rows of one treatment are coded together; a codec that codes keys and values alike has one."""
        return ""

    @abstractmethod
    def layout(self, width: int, treatment: str, head_dim: int) -> dict[str, Field]:
        """What `encode` returns, by name."""

    @abstractmethod
    def encode(self, x_RHTD: Tensor, width: int, treatment: str) -> dict[str, Tensor]:
        """The codes and what reading them takes, as named tensors of four axes."""

    def check(self, coded: dict[str, Tensor], treatment: str) -> None:
        """Raises ValueError where these tensors contradict each other, or hold what is no finite number. Allocates next to nothing."""
        for name, t in coded.items():
            if t.is_floating_point() and not all_finite(t):
                raise ValueError(f"{name} are not all finite")

    @abstractmethod
    def decode(self, coded: dict[str, Tensor], width: int, treatment: str, head_dim: int) -> Tensor:
        """Values_RHTD in float32. `check` comes first."""

    def encode_without(self, x_RHTD: Tensor, bias: RowBias, width: int, treatment: str) -> dict[str, Tensor]:
        """`encode` of one row (R is 1) less its bias, taken out in float32."""
        return self.encode(x_RHTD.float() - bias.values_HTD, width, treatment)

    def decode_into(self, out_RHTD: Tensor, coded: dict[str, Tensor], width: int, treatment: str, bias: RowBias | None = None) -> None:
        """`decode`, a single row's bias put back, rounded to the dtype of memory that is there and written to it."""
        x_RHTD = self.decode(coded, width, treatment, out_RHTD.shape[-1])
        out_RHTD.copy_(x_RHTD if bias is None else x_RHTD + bias.values_HTD)

    def num_bytes(self, width: int, treatment: str, num_tokens: int, head_dim: int) -> int:
        """Bytes of one block of so many tokens, for one row and head."""
        return sum(field.num_bytes * (1 if field.per_block else num_tokens) for field in self.layout(width, treatment, head_dim).values())

    def errors(self, x_RHTD: Tensor, widths: Sequence[int], treatment: str, bias: RowBias | None = None) -> tuple[Tensor, Tensor]:
        """Each token's squared errors_WRT at each width, measured and summed over heads, and its power_RT, the sum of its squares; of a
        single row less its bias."""
        x = x_RHTD.float() if bias is None else x_RHTD.float() - bias.values_HTD
        backs = (self.decode(self.encode(x, width, treatment), width, treatment, x.shape[-1]) for width in widths)
        return torch.stack([(back - x).square().sum(dim=(1, 3)) for back in backs]), x.square().sum(dim=(1, 3))


def all_finite(t: Tensor) -> bool:
    """Whether floats of any format are finite numbers; a piece at a time, so that looking takes no memory to speak of."""
    return all(bool(piece.float().isfinite().all()) for piece in torch.split(t.reshape(-1), _PIECE))


def blocks(num_tokens: int, block: int) -> list[int]:
    """Tokens of each block of a run."""
    return [min(block, num_tokens - begin) for begin in range(0, num_tokens, block)]
