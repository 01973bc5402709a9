"""A rotated head on the fixed codebook that is best for normal values (TurboQuant's MSE stage, arXiv 2504.19874)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from avpbench.codecs.codec import Codec, Field
from avpbench.codecs.grid import LARGEST, inverse
from avpbench.codecs.packing import WORD, num_words, pack, unpack
from avpbench.codecs.rotation import require_rotation, rotated, signs


@lru_cache(maxsize=8)
def codebook(width: int) -> Tensor:
    """Centroids of Lloyd's and Max's quantizer of a standard normal: each is the mean of the values nearest to it."""
    centroids = torch.linspace(-3, 3, 2**width, dtype=torch.float64)
    for _ in range(5000):
        edges = torch.cat([torch.tensor([-math.inf]), (centroids[1:] + centroids[:-1]) / 2, torch.tensor([math.inf])]).double()
        density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
        mass = torch.special.ndtr(edges).diff()
        centroids = (density[:-1] - density[1:]) / mass
    return centroids.float()


@final
class LloydMax(Codec):
    """x = scale * rotation(centroid), the scale being the root mean square of a token's head. What lies beyond the last
    centroid is cut there; a random rotation makes that rare.

    Args:
        rotation: values that are rotated together, a power of two.
    """

    widths = (3, 4)

    def __init__(self, rotation: int) -> None:
        require_rotation(rotation)
        self.rotation = rotation

    def layout(self, width: int, treatment: str, head_dim: int) -> dict[str, Field]:
        return {"codes": Field(WORD, num_words(head_dim, width)), "scales": Field(torch.float16, 1)}

    def encode(self, x_RHTD: Tensor, width: int, treatment: str) -> dict[str, Tensor]:
        x = rotated(x_RHTD.float() * signs(x_RHTD.shape[-1]).to(x_RHTD.device), self.rotation)
        scale = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])).clamp(max=LARGEST).half()
        book = codebook(width).to(x.device)
        codes = torch.bucketize(x * inverse(scale), (book[1:] + book[:-1]) / 2)
        return {"codes": pack(codes, width), "scales": scale}

    def decode(self, coded: dict[str, Tensor], width: int, treatment: str, head_dim: int) -> Tensor:
        scale = coded["scales"]
        values = codebook(width).to(scale.device)[unpack(coded["codes"], width, head_dim)]
        return rotated(values * scale.float(), self.rotation) * signs(head_dim).to(scale.device)
