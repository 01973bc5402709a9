"""Integers between each group's least and largest value: asymmetric, per token and head, in groups along the head.

The form that most K/V quantizers start from (KIVI, arXiv 2402.02750, for values; QKVShare, arXiv 2605.03884).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from avpbench.checks import whole
from avpbench.codecs import kernels
from avpbench.codecs.bias import RowBias
from avpbench.codecs.codec import Codec, Field
from avpbench.codecs.grid import fit, grouped, quantized, restored
from avpbench.codecs.packing import WORD, num_words, pack, unpack


@final
class Affine(Codec):
    """x = offset + scale * code, both in float16, rounded before the codes are chosen. The error is half a step at most,
    plus what float16 costs the offset.

    Args:
        group: values that share a scale; the last group of a head may have fewer.
    """

    widths = (2, 4, 8)

    def __init__(self, group: int) -> None:
        whole("strategy.codec.group", group, 2)
        self.group = group

    def layout(self, width: int, treatment: str, head_dim: int) -> dict[str, Field]:
        codes = Field(WORD, num_words(head_dim, width))
        return {"codes": codes, "scales": Field(torch.float16, 2 * -(-head_dim // self.group))}

    def encode(self, x_RHTD: Tensor, width: int, treatment: str) -> dict[str, Tensor]:
        if kernels.usable(x_RHTD, self.group, width):
            words, scales = kernels.encode(x_RHTD.reshape(-1, x_RHTD.shape[-1]), self.group, width)
            return {"codes": words.view(*x_RHTD.shape[:-1], -1), "scales": scales.view(*x_RHTD.shape[:-1], -1)}
        x = grouped(x_RHTD, self.group)
        scale, offset = fit(x.amin(-1), x.amax(-1), width)
        codes = quantized(x, scale[..., None], offset[..., None], width)
        codes = codes.flatten(-2)[..., : x_RHTD.shape[-1]]
        return {"codes": pack(codes, width), "scales": torch.cat([scale, offset], dim=-1)}

    def encode_without(self, x_RHTD: Tensor, bias: RowBias, width: int, treatment: str) -> dict[str, Tensor]:
        if not kernels.usable(x_RHTD, self.group, width, biased=True):
            return super().encode_without(x_RHTD, bias, width, treatment)
        words, scales = kernels.encode_without(x_RHTD[0], bias, self.group, width)
        return {"codes": words[None], "scales": scales[None]}

    def decode(self, coded: dict[str, Tensor], width: int, treatment: str, head_dim: int) -> Tensor:
        scale, offset = coded["scales"].float().chunk(2, dim=-1)
        codes = grouped(unpack(coded["codes"], width, head_dim), self.group)
        return restored(codes, scale[..., None], offset[..., None]).flatten(-2)[..., :head_dim]

    def decode_into(self, out_RHTD: Tensor, coded: dict[str, Tensor], width: int, treatment: str, bias: RowBias | None = None) -> None:
        if not kernels.usable(out_RHTD, self.group, width, bias is not None) or not out_RHTD.is_contiguous():
            return super().decode_into(out_RHTD, coded, width, treatment, bias)
        if bias is not None:
            return kernels.decode_with(coded["codes"][0], coded["scales"][0], width, bias, out_RHTD[0])
        return kernels.decode(coded["codes"].flatten(0, -2), coded["scales"].flatten(0, -2), width, out_RHTD.flatten(0, -2))

    def errors(self, x_RHTD: Tensor, widths: Sequence[int], treatment: str, bias: RowBias | None = None) -> tuple[Tensor, Tensor]:
        if not all(kernels.usable(x_RHTD, self.group, width, bias is not None) for width in widths):
            return super().errors(x_RHTD, widths, treatment, bias)
        if bias is not None:
            errors_HWN, power_HN = kernels.errors_without(x_RHTD[0], bias, self.group, widths)
            return errors_HWN.sum(0)[:, None], power_HN.sum(0)[None]
        errors_WN, power_N = kernels.errors(x_RHTD.reshape(-1, x_RHTD.shape[-1]), self.group, widths)
        return errors_WN.view(len(widths), *x_RHTD.shape[:-1]).sum(2), power_N.view(x_RHTD.shape[:-1]).sum(1)
