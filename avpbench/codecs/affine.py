"""Integers between each group's least and largest value: asymmetric, per token and head, in groups along the head.

The form that most K/V quantizers start from (KIVI, arXiv 2402.02750, for values; QKVShare, arXiv 2605.03884).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.checks import whole
from avpbench.codecs.codec import Codec, Field
from avpbench.codecs.packing import pack, packed_bytes, unpack

LARGEST = 65504.0  # of float16, in which scales and offsets cross


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
        codes = Field(torch.uint8, packed_bytes(head_dim, width))
        return {"codes": codes, "scales": Field(torch.float16, 2 * -(-head_dim // self.group))}

    def encode(self, x_RHTD: Tensor, width: int, treatment: str) -> dict[str, Tensor]:
        x = grouped(x_RHTD, self.group)
        scale, offset = fit(x.amin(-1), x.amax(-1), width)
        codes = quantized(x, scale[..., None], offset[..., None], width)
        codes = codes.flatten(-2)[..., : x_RHTD.shape[-1]]
        return {"codes": pack(codes, width), "scales": torch.cat([scale, offset], dim=-1)}

    def decode(self, coded: dict[str, Tensor], width: int, treatment: str, head_dim: int) -> Tensor:
        scale, offset = coded["scales"].float().chunk(2, dim=-1)
        codes = grouped(unpack(coded["codes"], width, head_dim), self.group)
        return restored(codes, scale[..., None], offset[..., None]).flatten(-2)[..., :head_dim]

    def error(self, x_RHTD: Tensor, width: int, treatment: str) -> Tensor:
        """From each group's measured range: a code's error is spread evenly over one step."""
        x = grouped(x_RHTD, self.group)
        step = (x.amax(-1) - x.amin(-1)) / (2**width - 1)
        error: Tensor = (step.square() * (x.shape[-1] / 12)).sum(dim=(1, 3))
        return error


def grouped(x: Tensor, group: int) -> Tensor:
    """[..., D] as [..., G, D/G], a short last group filled up with its last value; floats as float32."""
    x = x.float() if x.is_floating_point() else x
    if x.shape[-1] <= group:
        return x[..., None, :]
    if short := -x.shape[-1] % group:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], short)], dim=-1)
    return x.reshape(*x.shape[:-1], -1, group)


def fit(low: Tensor, high: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Scale and offset in float16, finite whatever the range."""
    scale = ((high - low) / (2**width - 1)).clamp(max=LARGEST).half()
    return scale, low.clamp(-LARGEST, LARGEST).half()


def quantized(x: Tensor, scale: Tensor, offset: Tensor, width: int) -> Tensor:
    """The nearest codes; 0 where a group has no range."""
    scale = scale.float()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return ((x - offset.float()) * inverse).round().clamp(0, 2**width - 1).to(torch.uint8)


def restored(codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Values in float32."""
    return codes.float() * scale.float() + offset.float()
