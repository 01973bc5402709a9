"""How the next token is chosen. Light to import: plans check its values without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from avpbench import digest
from avpbench.checks import number

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 is greedy. Otherwise the smallest set of tokens with mass `top_p` is drawn from."""

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        number("temperature", self.temperature, 0, 100)
        number("top_p", self.top_p, 0, 1, open_low=True)

    def choose(self, logits_BV: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        """One id a row. Each row draws from its own generator, so its batch mates do not change what it says."""
        if self.temperature == 0:
            ids: list[int] = logits_BV.argmax(dim=-1).tolist()
            return ids
        import torch

        probs_BV = torch.softmax(logits_BV.float() / self.temperature, dim=-1).cpu()
        ordered, index = probs_BV.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= self.top_p
        ordered[outside] = 0
        picks = [torch.multinomial(row, 1, generator=g) for row, g in zip(ordered, generators, strict=True)]
        return [int(index[r, pick]) for r, pick in enumerate(picks)]


def generator(seed: str) -> torch.Generator:
    """A generator of one sample's own: the same words give the same draws on every machine."""
    return generator_of(digest.seed_of(seed))


def generator_of(number: int) -> torch.Generator:
    """The same from a number that a generator was seeded with."""
    import torch

    return torch.Generator().manual_seed(number)
