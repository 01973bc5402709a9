"""K/V between our frozen values and transformers' caches; the only importer of its cache classes.

Axes: B rows, H kv heads, T tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from avpbench.core import KVCache
from avpbench.errors import IncompatibleModels


def refuse_partial_attention(config: Any) -> None:
    """Raises IncompatibleModels unless every layer of this model keeps K/V of all tokens.

    A sliding window or a recurrent state cannot be handed over as K/V with positions, so it is refused, not guessed.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise IncompatibleModels(f"{config.model_type} is an encoder-decoder model; avpbench hands over decoder-only caches")
    kinds = sorted({type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__})
    if kinds:
        raise IncompatibleModels(
            f"{config.model_type} keeps {', '.join(kinds)}; avpbench hands over full-attention caches only, because a"
            " sliding-window or hybrid cache does not hold all tokens. Choose a model with full attention in every layer."
        )


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """One layer's K/V in a buffer with room, so that a decoded token costs its own bytes and not a copy of all."""

    def __init__(self, keys_BHTD: Tensor, values_BHTD: Tensor, used: int) -> None:
        super().__init__()
        self.keys, self.values, self.used = keys_BHTD, values_BHTD, used
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        stop = self.used + key_states.shape[-2]
        if stop > self.keys.shape[-2]:
            self.keys, self.values = (_grown(t, self.used, stop) for t in (self.keys, self.values))
        self.keys[:, :, self.used : stop] = key_states
        self.values[:, :, self.used : stop] = value_states
        self.used = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_seq_length(self) -> int:
        return self.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0


def _grown(t: Tensor, used: int, wanted: int) -> Tensor:
    shape = list(t.shape)
    shape[-2] = max(wanted, shape[-2] + shape[-2] // 2)
    grown = t.new_empty(shape)
    grown[:, :, :used] = t[:, :, :used]
    return grown


def collate(
    caches: Sequence[KVCache | None], room: int, num_layers: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Cache:
    """A cache of B rows, left-padded with zeros to the longest, with room for `room` more tokens. Copies; owns its bytes."""
    lengths = [len(cache.positions_T) if cache else 0 for cache in caches]
    width = max(lengths)
    layers = []
    for layer in range(num_layers):
        pair = []
        for name in ("keys_HTD", "values_HTD"):
            buffer = torch.empty(len(caches), heads, width + room, head_dim, dtype=dtype, device=device)
            for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
                buffer[row, :, : width - length] = 0
                if cache is not None:
                    source: Tensor = getattr(cache, name)[layer]
                    buffer[row, :, width - length : width] = source
            pair.append(buffer)
        layers.append(GrowingLayer(pair[0], pair[1], used=width))
    return Cache(layers=layers)


def select_rows(cache: Cache, rows: Tensor) -> None:
    """Keeps these rows, in this order."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[rows], layer.values[rows]


def row(cache: Cache, index: int, columns: Sequence[tuple[int, int]], positions_T: Tensor, span: int) -> KVCache:
    """One row's tokens, at these runs of columns, as a value of its own.

    A copy where the batch has other rows, so that it does not keep their bytes alive; views where it is alone and its
    columns are one run.
    """

    def take(t: Tensor) -> Tensor:
        parts = [t[index, :, start:stop] for start, stop in columns]
        if len(parts) > 1:
            return torch.cat(parts, dim=1)
        return parts[0] if t.shape[0] == 1 else parts[0].clone()

    return KVCache(
        tuple(take(layer.keys) for layer in cache.layers), tuple(take(layer.values) for layer in cache.layers), positions_T, span
    )


def as_dynamic(cache: KVCache) -> DynamicCache:
    """The cache as transformers' own, a batch of one; views. For other packages: the engine makes its own."""
    return DynamicCache([(k[None], v[None]) for k, v in zip(cache.keys_HTD, cache.values_HTD, strict=True)])


def as_rows(cache: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """keys_HTD and values_HTD of every layer of transformers' cache of one sample; views."""
    return tuple(layer.keys[0] for layer in cache.layers), tuple(layer.values[0] for layer in cache.layers)
