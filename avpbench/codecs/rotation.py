"""Orthogonal rotations of a head: they spread an outlier over its block, so that a scale serves all."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from avpbench.checks import whole
from avpbench.errors import ConfigError


def require_rotation(value: object) -> None:
    """Raises ConfigError unless the value is a power of two above one."""
    whole("strategy.codec.rotation", value, 2)
    if type(value) is int and value & (value - 1):
        raise ConfigError(f"strategy.codec.rotation must be a power of two, got {value}")


@lru_cache(maxsize=32)
def hadamard(head_dim: int, block: int) -> Tensor:
    """A block-diagonal orthogonal matrix [D, D] of normalised Hadamard matrices; symmetric, so its own inverse.

    Blocks are powers of two, `block` at most; what is left of an odd head size gets smaller ones.
    """
    parts, left = [], head_dim
    while left:
        size = min(block, 1 << (left.bit_length() - 1))
        parts.append(_hadamard(size))
        left -= size
    whole: Tensor = torch.block_diag(*parts)  # type: ignore[no-untyped-call]
    return whole


def _hadamard(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    normal: Tensor = matrix / size**0.5
    return normal


@lru_cache(maxsize=32)
def signs(head_dim: int) -> Tensor:
    """Fixed random signs [D]: before a Hadamard matrix they make it a random rotation, which no input is aligned with."""
    return torch.randint(2, (head_dim,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0


def rotated(x: Tensor, block: int) -> Tensor:
    """Float32 values of the same shape."""
    turned: Tensor = torch.matmul(x.float(), hadamard(x.shape[-1], block).to(x.device))
    return turned
