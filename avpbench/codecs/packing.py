"""Codes of 1 to 8 bits in bytes and back, in planes: byte j of plane p holds codes j, j + N/2, ... of the last axis.

Neighbours in a row stay neighbours in memory, so that packing and unpacking are shifts over whole rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTHS = (1, 2, 3, 4, 8)


def packed_bytes(num_codes: int, width: int) -> int:
    """Bytes that a row of this many codes takes."""
    return sum(-(-num_codes * part // 8) for part in _parts(width))


def pack(codes: Tensor, width: int) -> Tensor:
    """Codes [..., N] of uint8 below 2^width as bytes [..., packed_bytes(N, width)]."""
    planes, shift = [], 0
    for part in _parts(width):
        planes.append(_pack((codes >> shift) & ((1 << part) - 1), part))
        shift += part
    return planes[0] if len(planes) == 1 else torch.cat(planes, dim=-1)


def unpack(packed: Tensor, width: int, num_codes: int) -> Tensor:
    """Codes [..., N] of uint8."""
    codes, begin, shift = None, 0, 0
    for part in _parts(width):
        size = packed_bytes(num_codes, part)
        bits = _unpack(packed[..., begin : begin + size], part)[..., :num_codes]
        codes = bits if codes is None else codes | (bits << shift)
        begin, shift = begin + size, shift + part
    assert codes is not None
    return codes


def _parts(width: int) -> tuple[int, ...]:
    """The powers of two that make the width: each is packed by itself."""
    return tuple(part for part in (1, 2, 4, 8) if width & part)


def _pack(codes: Tensor, width: int) -> Tensor:
    per_byte = 8 // width
    if per_byte == 1:
        return codes
    if short := -codes.shape[-1] % per_byte:
        codes = torch.nn.functional.pad(codes, (0, short))
    planes = codes.view(*codes.shape[:-1], per_byte, -1)
    packed: Tensor = planes[..., 0, :]
    for place in range(1, per_byte):
        packed = packed | (planes[..., place, :] << (width * place))
    return packed


def _unpack(packed: Tensor, width: int) -> Tensor:
    if width == 8:
        return packed
    mask = (1 << width) - 1
    return torch.cat([(packed >> shift) & mask for shift in range(0, 8, width)], dim=-1)
