"""Codes of 1 to 8 bits in 32-bit words and back.

A word holds K = 16 / width pairs of neighbouring codes, and the k-th pair of word i is pair k W + i of the row (W words a row):
so two codes at a time become the halves of one 32-bit store, where values have 16 bits, and every step runs over whole rows.
A width that is no power of two is packed in parts: 3 as 1 and 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = torch.int32


def num_words(num_codes: int, width: int) -> int:
    """Words that a row of this many codes takes."""
    return sum(-(-num_codes * part // 32) for part in _parts(width))


def pack(codes: Tensor, width: int) -> Tensor:
    """Codes [..., N] below 2^width, integers of any kind, as words [..., num_words(N, width)]."""
    codes, packed, shift = codes.to(WORD), [], 0
    for part in _parts(width):
        packed.append(_pack((codes >> shift) & ((1 << part) - 1), part))
        shift += part
    return packed[0] if len(packed) == 1 else torch.cat(packed, dim=-1)


def unpack(packed: Tensor, width: int, num_codes: int) -> Tensor:
    """Codes [..., N] in 32 bits."""
    codes, begin, shift = None, 0, 0
    for part in _parts(width):
        size = num_words(num_codes, part)
        bits = _unpack(packed[..., begin : begin + size], part)[..., :num_codes]
        codes = bits if codes is None else codes | (bits << shift)
        begin, shift = begin + size, shift + part
    assert codes is not None
    return codes


def _parts(width: int) -> tuple[int, ...]:
    """The powers of two that make the width: each is packed by itself."""
    return tuple(part for part in (1, 2, 4, 8) if width & part)


def _pack(codes: Tensor, width: int) -> Tensor:
    pairs_per_word = 16 // width
    if short := -codes.shape[-1] % (2 * pairs_per_word):
        codes = torch.nn.functional.pad(codes, (0, short))
    pairs = codes[..., ::2] | (codes[..., 1::2] << width)
    pairs = pairs.view(*pairs.shape[:-1], pairs_per_word, -1)
    words: Tensor = pairs[..., 0, :]
    for k in range(1, pairs_per_word):
        words = words | (pairs[..., k, :] << (2 * width * k))
    return words


def _unpack(words: Tensor, width: int) -> Tensor:
    shifts = torch.arange(0, 32, width, dtype=WORD, device=words.device).view(-1, 1, 2)
    return ((words[..., None, :, None] >> shifts) & ((1 << width) - 1)).flatten(-3)
