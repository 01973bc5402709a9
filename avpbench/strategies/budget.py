"""How many bytes a hop's new tokens may take, and which of them stay native whatever a controller says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from avpbench.checks import number
from avpbench.codecs.codec import Codec
from avpbench.codecs.levels import DROPPED, NATIVE, Levels
from avpbench.errors import ConfigError

_LEVEL = "level"
_PROTECTED_TOKENS, _PROTECTED_BYTES = 0.05, 0.125  # at most, of the new tokens and of the budget


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """Bits a value, card included; or the bytes, card included, that one level for all unprotected tokens takes.

    The second is what a comparison with one level for all needs: at a number of bits an even spread is a mixture of two.
    """

    bits: float | None
    level: int = DROPPED

    @classmethod
    def read(cls, written: object, codec: Codec) -> Budget:
        """From `strategy.budget_bits`: 4.5, or level4. Raises ConfigError."""
        if isinstance(written, str) and written.startswith(_LEVEL):
            names = [f"{_LEVEL}{width}" for width in codec.widths]
            if written not in names:
                raise ConfigError(f"strategy.budget_bits must be a number or one of this codec's {', '.join(names)}; got {written}")
            return cls(None, int(written.removeprefix(_LEVEL)))
        number("strategy.budget_bits", written, 0, 64, open_low=True)
        return cls(float(written))  # type: ignore[arg-type]

    @property
    def written(self) -> float | str:
        """As it was given."""
        return f"{_LEVEL}{self.level}" if self.bits is None else self.bits

    def num_bytes(self, num_tokens: int, table: Levels) -> int:
        """What so many tokens may take, the card left out where a level is the budget."""
        if self.bits is not None:
            return int(self.bits * table.spec.values_per_token * num_tokens / 8)
        return table.num_bytes(self.level, table.codec.block) * num_tokens // table.codec.block


def protected(positions_N: Tensor, sinks: int, recent: int, budget_bytes: int, table: Levels) -> Tensor:
    """The tokens that stay native, protected_N: sinks first, then the last ones, as many as are allowed."""
    num = len(positions_N)
    most = min(int(_PROTECTED_TOKENS * num), int(_PROTECTED_BYTES * budget_bytes / table.num_bytes(NATIVE, 1)))
    first = min(int((positions_N < sinks).sum()), most)
    last = min(recent, most - first)
    protected_N = torch.zeros(num, dtype=torch.bool)
    protected_N[:first] = True
    protected_N[num - last :] = True
    return protected_N
