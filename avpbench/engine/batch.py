"""A batch in flight: rows of different lengths over one left-padded cache, with explicit positions and mask.

Axes: B rows, T cached columns, N new columns, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from avpbench.core import LATENT, Captured, KVCache, ModelSpec, Prefix
from avpbench.engine.cache import collate, row, select_rows
from avpbench.engine.capture import PREDICTIONS, Heard, Recorder, listening


@final
@dataclass(frozen=True, eq=False, slots=True)
class Start:
    """Where one row begins: a prefix, then the ids of a prompt."""

    prefix: Prefix
    prompt_ids: tuple[int, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.prefix.token_ids + self.prompt_ids

    @property
    def span(self) -> int:
        """Tokens of the sequence that the prefix's cache stands for."""
        return self.prefix.cache.span if self.prefix.cache else 0

    @property
    def num_new(self) -> int:
        return len(self.token_ids) - self.span


@final
class Batch:
    """Runs a model over rows that came from different prefixes.

    `columns` are kept per row: where its cached tokens and its prompt lie; what is decoded lies after them. Rows that
    are done can be dropped from the batch; the others do not notice.
    """

    def __init__(
        self, model: Any, spec: ModelSpec, starts: Sequence[Start], room: int, device: torch.device, recorder: Recorder | None = None
    ) -> None:
        self._model, self._device, self._starts, self.recorder = model, device, starts, recorder
        cached = [len(s.prefix.cache.positions_T) if s.prefix.cache else 0 for s in starts]
        self._width, self._num_new = max(cached), max(s.num_new for s in starts)
        self._begin = self._width + self._num_new
        self.columns = [
            ((self._width - c, self._width), (self._begin - s.num_new, self._begin)) for c, s in zip(cached, starts, strict=True)
        ]
        self.live = list(range(len(starts)))  # rows of the tensors -> places in `starts`
        self._cache = collate(
            [s.prefix.cache for s in starts], self._num_new + room, spec.num_layers, spec.num_kv_heads, spec.head_dim,
            model.dtype, device,
        )  # fmt: skip
        self._padded = len(set(cached)) > 1 or len({s.num_new for s in starts}) > 1
        self._mask_BT = torch.zeros(len(starts), self._begin, dtype=torch.long)
        for r, runs in enumerate(self.columns):
            for start, stop in runs:
                self._mask_BT[r, start:stop] = 1
        self._mask_BT = self._mask_BT.to(device)
        self._next_B = torch.tensor([len(s.token_ids) for s in starts], device=device)

    def prefill(self, logits_to_keep: int = 1) -> Tensor:
        """Logits_BKV of the last K places, after every row's pending tokens went through."""
        inputs, positions, _ = self._pending()
        if self.recorder is None:
            return self._forward(inputs, positions, logits_to_keep)
        width = self._num_new
        logits, heard = self._heard(inputs, positions, width if PREDICTIONS in self.recorder.needs else logits_to_keep)
        self.recorder.prefilled(heard)
        self.recorder.predicted(logits[:, -width:-1])
        return logits[:, -logits_to_keep:]

    def queries(self) -> list[Tensor]:
        """Every layer's queries_BAND of the rows' pending tokens, which go through."""
        inputs, positions, _ = self._pending()
        return self._heard(inputs, positions, 1)[1].queries

    def _pending(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The inputs, positions_BN and ids_BN of what is not in the cache yet."""
        starts, width = self._starts, self._num_new
        ids = torch.zeros(len(starts), width, dtype=torch.long)
        positions = torch.zeros(len(starts), width, dtype=torch.long)
        for r, s in enumerate(starts):
            ids[r, width - s.num_new :] = torch.tensor(s.token_ids[s.span :])
            positions[r, width - s.num_new :] = torch.arange(s.span, len(s.token_ids))
        return self._inputs(ids), positions.to(self._device), ids

    def _inputs(self, ids_BN: Tensor) -> dict[str, Tensor]:
        if not bool((ids_BN == LATENT).any()):
            return {"input_ids": ids_BN.to(self._device)}
        embeds = self._model.get_input_embeddings()(ids_BN.clamp(min=0).to(self._device))
        for r, s in enumerate(self._starts):
            places = (ids_BN[r] == LATENT).nonzero()[:, 0]
            if len(places):
                assert s.prefix.soft_NE is not None, "a LATENT place without its embedding"
                embeds[r, places] = s.prefix.soft_NE[-len(places) :].to(embeds)
        return {"inputs_embeds": embeds}

    def step(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits_BV after one more token a live row: `input_ids` [B, 1] or `inputs_embeds` [B, 1, E]."""
        if self._padded:
            self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(self.live), 1)], dim=1)
        positions = self._next_B[:, None]
        self._next_B = self._next_B + 1
        if self.recorder is None:
            return self._forward(inputs, positions, 1)[:, -1]
        logits, heard = self._heard(inputs, positions, 1)
        self.recorder.stepped(heard)
        return logits[:, -1]

    def _heard(self, inputs: dict[str, Tensor], positions_BN: Tensor, logits_to_keep: int) -> tuple[Tensor, Heard]:
        """The pass, and what was heard in it."""
        with listening(self._model) as (heard, more):
            return self._forward(inputs, positions_BN, logits_to_keep, more), heard

    def _forward(self, inputs: dict[str, Tensor], positions_BN: Tensor, logits_to_keep: int, more: dict[str, Any] | None = None) -> Tensor:
        output = self._model(
            **inputs,
            **(more or {}),
            attention_mask=self._mask_BT if self._padded else None,
            position_ids=positions_BN,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        logits: Tensor = output.logits
        return logits

    def take(self, row_index: int, num_decoded: int) -> KVCache:
        """The row's whole cache so far, `num_decoded` of it since the prompt."""
        start = self._starts[self.live[row_index]]
        runs = [*self.columns[self.live[row_index]], (self._begin, self._begin + num_decoded)]
        span = len(start.token_ids) + num_decoded
        fresh = torch.arange(start.span, span, device=self._device)
        cache = start.prefix.cache
        positions = torch.cat([cache.positions_T.to(self._device), fresh]) if cache else fresh
        return row(self._cache, row_index, _merged(runs), positions, span)

    def captured(self, row_index: int, num_decoded: int) -> Captured:
        """What was kept of the row so far, `num_decoded` tokens after its prompt."""
        return Captured() if self.recorder is None else self.recorder.take(row_index, num_decoded)

    def keep(self, rows: Sequence[int]) -> None:
        """Drops every live row but these."""
        index = torch.tensor(rows, device=self._device)
        select_rows(self._cache, index)
        if self.recorder is not None:
            self.recorder.keep(index)
        self._mask_BT, self._next_B = self._mask_BT[index], self._next_B[index]
        self.live = [self.live[r] for r in rows]


def _merged(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs that touch, joined; empty ones left out."""
    merged: list[tuple[int, int]] = []
    for start, stop in runs:
        if start == stop:
            continue
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged
