"""Eight-bit floats (e4m3) with a scale per token and head."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.codecs.codec import Codec, Field
from avpbench.codecs.grid import LARGEST, inverse

_FORMAT = torch.float8_e4m3fn
_MAX = torch.finfo(_FORMAT).max


@final
class Fp8(Codec):
    """x = scale * code; the largest value of a token's head becomes the format's largest. Relative error 1/16 at most."""

    widths = (8,)

    def layout(self, width: int, treatment: str, head_dim: int) -> dict[str, Field]:
        return {"codes": Field(_FORMAT, head_dim), "scales": Field(torch.float16, 1)}

    def encode(self, x_RHTD: Tensor, width: int, treatment: str) -> dict[str, Tensor]:
        x = x_RHTD.float()
        scale = (x.abs().amax(-1, keepdim=True) / _MAX).clamp(max=LARGEST).half()
        return {"codes": (x * inverse(scale)).clamp(-_MAX, _MAX).to(_FORMAT), "scales": scale}

    def decode(self, coded: dict[str, Tensor], width: int, treatment: str, head_dim: int) -> Tensor:
        return coded["codes"].float() * coded["scales"].float()
