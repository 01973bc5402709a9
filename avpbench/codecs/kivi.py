"""KIVI (arXiv 2402.02750): keys per channel in groups of tokens, values per token in groups of the head."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.checks import whole
from avpbench.codecs.affine import Affine
from avpbench.codecs.codec import KEYS, Codec, Field, blocks
from avpbench.codecs.grid import fit, quantized, restored
from avpbench.codecs.packing import WORD, num_words, pack, unpack
from avpbench.errors import ConfigError

_CHANNEL = "channel"
_LARGEST = 255


@final
class Kivi(Codec):
    """Keys have channels of large values and values do not, so each key channel has a scale of its own for `block` tokens.

    Args:
        group: values of a token that share a scale.
        block: tokens that share a scale of a key channel; the last block of a hop may have fewer.
    """

    widths = (2, 4)

    def __init__(self, group: int, block: int) -> None:
        whole("strategy.codec.block", block, 2)
        if block > _LARGEST:
            raise ConfigError(f"strategy.codec.block must be at most {_LARGEST}, since a block's size is written in a byte; got {block}")
        self.group, self.block = group, block
        self._affine = Affine(group)

    def treatment(self, half: str) -> str:
        return _CHANNEL if half == KEYS else ""

    def layout(self, width: int, treatment: str, head_dim: int) -> dict[str, Field]:
        if treatment != _CHANNEL:
            return self._affine.layout(width, treatment, head_dim)
        return {
            "codes": Field(WORD, num_words(head_dim, width)),
            "scales": Field(torch.float16, 2 * head_dim, per_block=True),
            "sizes": Field(torch.uint8, 1, per_block=True),
        }

    def encode(self, x_RHTD: Tensor, width: int, treatment: str) -> dict[str, Tensor]:
        if treatment != _CHANNEL:
            return self._affine.encode(x_RHTD, width, treatment)
        sizes = torch.tensor(blocks(x_RHTD.shape[2], self.block), device=x_RHTD.device)
        parts = torch.split(x_RHTD.float(), self.block, 2)
        low, high = (torch.stack([getattr(part, name)(2) for part in parts], dim=2) for name in ("amin", "amax"))
        scale, offset = fit(low, high, width)
        codes = quantized(x_RHTD.float(), _spread(scale, sizes), _spread(offset, sizes), width)
        marked = sizes.to(torch.uint8).view(1, 1, -1, 1).expand(*x_RHTD.shape[:2], -1, 1)
        return {"codes": pack(codes, width), "scales": torch.cat([scale, offset], dim=-1), "sizes": marked}

    def check(self, coded: dict[str, Tensor], treatment: str) -> None:
        super().check(coded, treatment)
        if treatment != _CHANNEL:
            return
        sizes, count = coded["sizes"][0, 0, :, 0], coded["codes"].shape[2]
        counted, same = int(sizes.sum()), bool((coded["sizes"] == sizes[:, None]).all())
        if counted != count or len(sizes) != coded["scales"].shape[2] or not same:
            raise ValueError(f"{len(sizes)} blocks hold {counted} tokens; the codes are {count}, the scales {coded['scales'].shape[2]}")

    def decode(self, coded: dict[str, Tensor], width: int, treatment: str, head_dim: int) -> Tensor:
        if treatment != _CHANNEL:
            return self._affine.decode(coded, width, treatment, head_dim)
        sizes = coded["sizes"][0, 0, :, 0].long()
        codes = unpack(coded["codes"], width, head_dim)
        scale, offset = (_spread(t, sizes) for t in coded["scales"].chunk(2, dim=-1))
        return restored(codes, scale, offset)


def _spread(t: Tensor, sizes: Tensor) -> Tensor:
    """A value a block as a value a token."""
    return t.repeat_interleave(sizes, dim=2)
