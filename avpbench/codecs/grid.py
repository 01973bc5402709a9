"""The even grid between a group's least and largest value: x = offset + scale * code, scale and offset in float16.

Scale and offset are rounded before the codes are chosen, so that the error is half a step at most, plus what float16 costs the offset.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 65504.0  # of float16


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


def inverse(scale: Tensor) -> Tensor:
    """1 / scale in float32; 0 where a group has no range."""
    scale = scale.float()
    return torch.where(scale > 0, 1 / scale, 0.0)


def quantized(x: Tensor, scale: Tensor, offset: Tensor, width: int) -> Tensor:
    """The nearest codes, as floats; 0 where a group has no range."""
    return (x - offset.float()).mul_(inverse(scale)).round_().clamp_(0, 2**width - 1)  # in place: fresh pages cost most


def restored(codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Values in float32."""
    return (codes * scale.float()).add_(offset.float())
