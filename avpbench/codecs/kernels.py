"""The affine codec's loops through torch.compile, for large 16-bit caches on a CPU: the same bits as the eager path, several times faster.

Two bfloat16 values are read, and written, as one 32-bit integer, so that no loop narrows or widens what it works on. Axes: N rows,
D values, G groups, P = D / 2 pairs, W words.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from avpbench.codecs.bias import Rope, RowBias, turned
from avpbench.codecs.grid import fit, grouped, inverse, quantized, restored
from avpbench.codecs.packing import WORD, pack

_LEAST = 2**18  # values of a call that are worth a compiled kernel
_ROUND = 1.5 * 2**23  # added to a small float32 it leaves the nearest integer, ties to even, in the low bits
_LOG = logging.getLogger(__name__)


def usable(x: Tensor, group: int, width: int, biased: bool = False) -> bool:
    """Whether the kernels take such values [..., D]: regular shapes in bfloat16, many of them, and a compiler at hand. `biased`: those
    that take a bias out and put it back."""
    dim = x.shape[-1]
    regular = x.dtype == torch.bfloat16 and x.device.type == "cpu" and not dim % min(group, dim) and not min(group, dim) % 2
    return regular and not dim * width % 32 and x.numel() >= _LEAST and _work(dim, min(group, dim), width, biased)


def decode(words_NW: Tensor, scales_NS: Tensor, width: int, out_ND: Tensor) -> None:
    """Writes the values into memory that is there."""
    scale_NG, offset_NG = scales_NS.float().chunk(2, dim=-1)  # here: inside a loop float16 is slow
    _run(_values, words_NW, scale_NG, offset_NG, width, out_ND.view(WORD))


def encode_without(x_HND: Tensor, bias: RowBias, group: int, width: int) -> tuple[Tensor, Tensor]:
    """`encode` of each head of a row less its bias: words_HNW and scales_HNS."""
    found = [encode(x_ND, group, width, *bias.head_pairs(head)) for head, x_ND in enumerate(x_HND.contiguous())]
    words, scales = (torch.stack(parts) for parts in zip(*found, strict=True))
    return words, scales


def decode_with(words_HNW: Tensor, scales_HNS: Tensor, width: int, bias: RowBias, out_HND: Tensor) -> None:
    """`decode` of each head of a row, its bias put back."""
    for head, out_ND in enumerate(out_HND):
        scale_NG, offset_NG = scales_HNS[head].float().chunk(2, dim=-1)
        _run(_values_with, words_HNW[head], scale_NG, offset_NG, width, out_ND.view(WORD), *bias.head_pairs(head))


def errors_without(x_HND: Tensor, bias: RowBias, group: int, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`errors` of each head of a row less its bias: errors_HWN and powers_HN."""
    found = [errors(x_ND, group, widths, *bias.head_pairs(head)) for head, x_ND in enumerate(x_HND.contiguous())]
    missed, powers = (torch.stack(parts) for parts in zip(*found, strict=True))
    return missed, powers


def encode(x_ND: Tensor, group: int, width: int, *bias: Tensor) -> tuple[Tensor, Tensor]:
    """Codes as words_NW, and scales_NS of float16: of every group, then every group's offset. `bias`: a head's, by pairs."""
    pairs_NP = x_ND.view(WORD)
    scale_NG, offset_NG = fit(*_bounds_of(x_ND, group, bias), width)
    words = _run(_words_without if bias else _words, pairs_NP, inverse(scale_NG), offset_NG.float(), width, *bias)
    return words, torch.cat([scale_NG, offset_NG], dim=-1)


def errors(x_ND: Tensor, group: int, widths: Sequence[int], *bias: Tensor) -> tuple[Tensor, Tensor]:
    """What each width's codes lose of a row, a sum of squares_WN, and its own sum of squares_N, in float32."""
    low_NG, high_NG = _bounds_of(x_ND, group, bias)
    fits = [fit(low_NG, high_NG, width) for width in widths]
    scale_NWG, highest_W = torch.stack([scale for scale, _ in fits], 1).float(), torch.tensor([2.0**width - 1 for width in widths])
    measured = _misses_without if bias else _misses
    lost_NW, power_N = _run(measured, x_ND.view(WORD), inverse(scale_NWG), scale_NWG, fits[0][1].float(), highest_W, *bias)
    return lost_NW.T, power_N


def _bounds_of(x_ND: Tensor, group: int, bias: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Least and largest of each group, in float32."""
    size = min(group, x_ND.shape[-1])
    low, high = _run(_bounds_without, x_ND.view(WORD), size, *bias) if bias else _run(_bounds, x_ND, size)
    return low.float(), high.float()


def _bounds(x_ND: Tensor, group: int) -> tuple[Tensor, Tensor]:
    x = x_ND.view(len(x_ND), -1, group)
    return x.amin(-1), x.amax(-1)


# Those below named `_without` and `_with` compile apart from their others: one function has one number of recompilations for all.


def _bounds_without(pairs_NP: Tensor, group: int, *bias: Tensor) -> tuple[Tensor, Tensor]:
    one, two = (half.view(len(half), -1, group // 2) for half in _halves(pairs_NP, *bias))
    return one.minimum(two).amin(-1), one.maximum(two).amax(-1)


def _misses_without(pairs_NP: Tensor, inverse_NWG: Tensor, scale_NWG: Tensor, offset_NG: Tensor, highest_W: Tensor, *bias: Tensor) -> Any:
    return _misses(pairs_NP, inverse_NWG, scale_NWG, offset_NG, highest_W, *bias)


def _misses(
    pairs_NP: Tensor, inverse_NWG: Tensor, scale_NWG: Tensor, offset_NG: Tensor, highest_W: Tensor, *bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Every width in one loop, since reading and widening the values takes longer than coding them once."""
    one, two = (half.view(*offset_NG.shape, -1) for half in _halves(pairs_NP, *bias))

    def missed(x: Tensor, w: int) -> Tensor:
        codes = ((x - offset_NG[..., None]) * inverse_NWG[:, w, :, None]).round().clamp(min=0).minimum(highest_W[w])
        return (codes * scale_NWG[:, w, :, None] + offset_NG[..., None] - x).square()

    lost = [(missed(one, w) + missed(two, w)).sum((-1, -2)) for w in range(len(highest_W))]
    return torch.stack(lost, -1), (one.square() + two.square()).sum((-1, -2))


def _halves(pairs_NP: Tensor, *bias: Tensor) -> tuple[Tensor, Tensor]:
    """Even and odd values_NP in float32, less their bias."""
    one, two = (pairs_NP << 16).view(torch.float32), (pairs_NP & -65536).view(torch.float32)
    return (one - turned(*bias[:4]), two - turned(*bias[4:])) if bias else (one, two)


def _words_without(pairs_NP: Tensor, inverse_NG: Tensor, offset_NG: Tensor, width: int, *bias: Tensor) -> Tensor:
    return _words(pairs_NP, inverse_NG, offset_NG, width, *bias)


def _values_with(words_NW: Tensor, scale_NG: Tensor, offset_NG: Tensor, width: int, out_NP: Tensor, *bias: Tensor) -> None:
    _values(words_NW, scale_NG, offset_NG, width, out_NP, *bias)


def _words(pairs_NP: Tensor, inverse_NG: Tensor, offset_NG: Tensor, width: int, *bias: Tensor) -> Tensor:
    highest, pairs_per_word = 2**width - 1, 16 // width

    def codes(half: Tensor) -> Tensor:
        scaled = (half.view(*inverse_NG.shape, -1) - offset_NG[..., None]) * inverse_NG[..., None]
        found: Tensor = (scaled.clamp(0, highest) + _ROUND).view(WORD) & highest
        return found

    one, two = _halves(pairs_NP, *bias)
    both = codes(one) | (codes(two) << width)
    parts = both.view(len(both), pairs_per_word, -1)
    words: Tensor = parts[:, 0]
    for k in range(1, pairs_per_word):
        words = words | (parts[:, k] << (2 * width * k))
    return words


def _values(words_NW: Tensor, scale_NG: Tensor, offset_NG: Tensor, width: int, out_NP: Tensor, *bias: Tensor) -> None:
    highest = 2**width - 1
    shifts = torch.arange(0, 32, 2 * width, dtype=WORD)[:, None]
    pairs = (words_NW[:, None] >> shifts).flatten(-2).view(*scale_NG.shape, -1)

    def rounded(codes: Tensor, more: tuple[Tensor, ...]) -> Tensor:
        x = codes.float() * scale_NG[..., None] + offset_NG[..., None]
        bits = (x + turned(*more).view(x.shape) if more else x).view(WORD)
        return bits + 32767 + ((bits >> 16) & 1)  # to the nearest bfloat16, ties to even, in the high half

    low, high = rounded(pairs & highest, bias[:4]), rounded((pairs >> width) & highest, bias[4:])
    out_NP.copy_((((low >> 16) & 65535) | (high & -65536)).flatten(-2))  # not view_as: that loop is slow


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # `emulate_precision_casts`: what is rounded to float16 stays rounded
    options: dict[str, str | int | bool | Callable[..., Any]] = {"cpp.dynamic_threads": True, "emulate_precision_casts": True}
    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, options=options)
    return compiled


def _run(function: Callable[..., Any], *given: Any) -> Any:
    for one in given:
        if isinstance(one, Tensor) and one.dim() > 1:  # rows; a head's own vector is of one length
            torch._dynamo.mark_dynamic(one, 0)
    return _compiled(function)(*given)


@cache
def _work(dim: int, group: int, width: int, biased: bool = False) -> bool:
    """Compiles the kernels and compares them with the eager path, bit for bit."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return False
    random = torch.Generator().manual_seed(0)
    x, (cos, sin) = torch.randn(64, dim, generator=random).bfloat16(), torch.randn(2, 64, dim, generator=random)
    bias = RowBias(20 * torch.randn(1, dim, generator=random), Rope(cos, sin)) if biased else None
    out = torch.empty_like(x)
    try:
        with torch._dynamo.config.patch(automatic_dynamic_shapes=False), warnings.catch_warnings():  # a kernel a shape, only N free
            warnings.simplefilter("ignore")
            *made, lost = _made(x, group, width, bias, out)
    except Exception as error:  # whatever a compiler, its headers or their age may raise
        _LOG.warning("torch.compile does not work here (%s); codes are made without it, to the same bits", type(error).__name__)
        return False
    *wanted, missed = _eager(x, group, width, bias)
    same = all(map(torch.equal, (*made, out), wanted)) and torch.allclose(lost, missed, rtol=1e-4)
    if not same:
        _LOG.warning("torch.compile gives other bits than the eager path here, so it is left out")
    return same


def _made(x_ND: Tensor, group: int, width: int, bias: RowBias | None, out_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Runs every kernel; the words, scales and errors."""
    if bias is None:
        words, scales = encode(x_ND, group, width)
        decode(words, scales, width, out_ND)
        return words, scales, errors(x_ND, group, (width,))[0][0]
    words, scales = encode_without(x_ND[None], bias, group, width)
    decode_with(words, scales, width, bias, out_ND[None])
    return words[0], scales[0], errors_without(x_ND[None], bias, group, (width,))[0][0, 0]


def _eager(x_ND: Tensor, group: int, width: int, bias: RowBias | None) -> tuple[Tensor, ...]:
    """Words, scales, values back and errors, as the eager path has them."""
    groups = grouped(x_ND if bias is None else x_ND.float() - bias.values_HTD[0], group)
    scale, offset = fit(groups.amin(-1), groups.amax(-1), width)
    codes = quantized(groups, scale[..., None], offset[..., None], width)
    back = restored(codes, scale[..., None], offset[..., None]).flatten(-2)
    plain = back if bias is None else back + bias.values_HTD[0]
    missed = (back.view_as(groups) - groups).square().sum((-1, -2))
    return pack(codes.flatten(-2), width), torch.cat([scale, offset], -1), plain.bfloat16(), missed
