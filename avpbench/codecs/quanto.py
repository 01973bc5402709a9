"""A peer: optimum-quanto's own choice of codes (pip install 'avpbench[quanto]'), packed and carried as ours are."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.codecs.affine import Affine
from avpbench.codecs.codec import Codec, Field
from avpbench.codecs.grid import LARGEST, grouped
from avpbench.codecs.packing import pack
from avpbench.errors import NotFound


@final
class Quanto(Codec):
    """quanto's MaxOptimizer and quantizer, as transformers' QuantizedCache uses them; offsets and scales in float16.

    Args:
        group: values that share a scale.
    """

    widths = (2, 4)

    def __init__(self, group: int) -> None:
        self.group, self._affine = group, Affine(group)
        try:
            import optimum.quanto  # noqa: F401
        except ImportError as error:
            raise NotFound("codec quanto wants optimum-quanto; pip install 'avpbench[quanto]', or choose affine") from error

    def encode(self, x_RHTD: Tensor, width: int, treatment: str) -> dict[str, Tensor]:
        from optimum.quanto import MaxOptimizer, qint2, qint4, quantize_weight

        x = grouped(x_RHTD, self.group)
        rows, kind = x.reshape(-1, x.shape[-1]), {2: qint2, 4: qint4}[width]
        scale, shift = MaxOptimizer()(rows, qtype=kind, axis=0, group_size=rows.shape[1])
        made = quantize_weight(rows, qtype=kind, axis=0, scale=scale.clamp(min=1e-6), shift=shift, group_size=rows.shape[1])
        codes = made._data.unpack().reshape(x.shape).flatten(-2)[..., : x_RHTD.shape[-1]]
        scales = torch.cat([t.reshape(x.shape[:-1]) for t in (made._scale, -made._shift)], dim=-1)
        return {"codes": pack(codes, width), "scales": scales.clamp(-LARGEST, LARGEST).half()}

    def layout(self, width: int, treatment: str, head_dim: int) -> dict[str, Field]:
        return self._affine.layout(width, treatment, head_dim)

    def decode(self, coded: dict[str, Tensor], width: int, treatment: str, head_dim: int) -> Tensor:
        return self._affine.decode(coded, width, treatment, head_dim)
