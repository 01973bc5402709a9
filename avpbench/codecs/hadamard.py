"""Affine codes of a rotated head: int4 that survives outliers (SAW-INT4, arXiv 2604.19157)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from avpbench.codecs.affine import Affine
from avpbench.codecs.codec import Codec, Field
from avpbench.codecs.rotation import require_rotation, rotated


@final
class Hadamard(Codec):
    """Rotates blocks of the head, then codes them as `affine` does: half a step at most for each rotated value.

    Args:
        group: values that share a scale.
        rotation: values that are rotated together, a power of two.
    """

    widths = (2, 4)

    def __init__(self, group: int, rotation: int) -> None:
        require_rotation(rotation)
        self.group, self.rotation = group, rotation
        self._affine = Affine(group)

    def layout(self, width: int, treatment: str, head_dim: int) -> dict[str, Field]:
        return self._affine.layout(width, treatment, head_dim)

    def encode(self, x_RHTD: Tensor, width: int, treatment: str) -> dict[str, Tensor]:
        return self._affine.encode(rotated(x_RHTD, self.rotation), width, treatment)

    def decode(self, coded: dict[str, Tensor], width: int, treatment: str, head_dim: int) -> Tensor:
        return rotated(self._affine.decode(coded, width, treatment, head_dim), self.rotation)
