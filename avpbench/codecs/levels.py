"""What a level means for one model's caches: which codes each row gets, and what that costs.

A row is one layer's keys or values: rows 0 to L-1 are the keys, L to 2L-1 the values.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import final

import torch

from avpbench.codecs.codec import KEYS, VALUES, Codec
from avpbench.core import ModelSpec
from avpbench.errors import ConfigError

DROPPED, NATIVE = 0, 255
LAYER_STEPS: dict[str, dict[int, int]] = {"even": {}, "first": {0: 1}, "ends": {0: 1, -1: 1}}  # ends: KVTuner, arXiv 2502.04420


def steps_of(written: object) -> dict[int, int]:
    """Steps by layer from a preset's name or from pairs [[layer, step], ...]. Raises ConfigError."""
    if isinstance(written, str) and written in LAYER_STEPS:
        return LAYER_STEPS[written]
    try:
        pairs = [(layer, step) for layer, step in written]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        pairs = [(None, None)]
    if isinstance(written, str) or any(type(k) is not int or type(step) is not int for k, step in pairs) or len(dict(pairs)) < len(pairs):
        raise ConfigError(
            f"strategy.layer_steps={written!r}: want {', '.join(LAYER_STEPS)}, or pairs of a layer and its step, each layer once,"
            " e.g. [[0,1],[-1,1]]"
        )
    return dict(pairs)


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Rows that one level codes alike."""

    width: int
    treatment: str
    rows: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Levels:
    """A codec's levels for a model: dropped, its widths, and native (the cache's own dtype, bit for bit).

    A level is named after its width. `keys_step` raises the keys' width by so many of the codec's widths,
    `layer_steps` those of single layers (negative ones count from the end), as far as the codec goes.
    """

    codec: Codec
    spec: ModelSpec
    keys_step: int = 0
    layer_steps: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer in self.layer_steps:
            if not -self.spec.num_layers <= layer < self.spec.num_layers:
                raise ConfigError(f"strategy.layer_steps names layer {layer}; {self.spec.name} has {self.spec.num_layers}")
        if len({layer % self.spec.num_layers for layer in self.layer_steps}) < len(self.layer_steps):
            raise ConfigError(
                f"strategy.layer_steps names a layer of {self.spec.name} twice: {sorted(self.layer_steps)}, of {self.spec.num_layers}"
                " layers; negative ones count from the end; name each once"
            )

    @property
    def names(self) -> tuple[int, ...]:
        """All levels, the cheapest first."""
        return (DROPPED, *self.codec.widths, NATIVE)

    @property
    def num_rows(self) -> int:
        return 2 * self.spec.num_layers

    @property
    def dtype(self) -> torch.dtype:
        """The cache's own."""
        found: torch.dtype = getattr(torch, self.spec.dtype)
        return found

    def groups(self, level: int) -> tuple[Group, ...]:
        """How the rows are coded at a level of the codec's."""
        found: dict[tuple[int, str], list[int]] = defaultdict(list)
        layers = self.spec.num_layers
        steps = {layer % layers: step for layer, step in self.layer_steps.items()}
        widths = self.codec.widths
        for row in range(self.num_rows):
            half = KEYS if row < layers else VALUES
            step = steps.get(row % layers, 0) + (self.keys_step if half == KEYS else 0)
            place = min(max(widths.index(level) + step, 0), len(widths) - 1)
            found[widths[place], self.codec.treatment(half)].append(row)
        return tuple(Group(width, treatment, tuple(rows)) for (width, treatment), rows in found.items())

    def num_bytes(self, level: int, num_tokens: int) -> int:
        """Bytes of one block of so many tokens at this level."""
        if level == DROPPED:
            return 0
        if level == NATIVE:
            return num_tokens * self.spec.values_per_token * self.dtype.itemsize
        heads, dim = self.spec.num_kv_heads, self.spec.head_dim
        return sum(heads * len(g.rows) * self.codec.num_bytes(g.width, g.treatment, num_tokens, dim) for g in self.groups(level))
