"""What is kept of a turn's forward passes for those who rank or hand over its tokens: queries, predictions, hidden states;
never attention matrices.

Axes: B rows, A attention heads, N new columns of a pass, P kept tokens, D head size, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from avpbench.core import Captured, Queries

WINDOW, PROBES, PREDICTIONS, DEMAND, HIDDEN = "window", "probes", "predictions", "demand", "hidden"
CAPTURES = frozenset({WINDOW, PROBES, PREDICTIONS, DEMAND, HIDDEN})
_KEPT = 16  # queries of the window, and of the probes in a prompt
_STRIDE = 8  # said tokens between two probes
_NAME = "avpbench_sdpa"


def _attention(module: Any, query: Tensor, *args: Any, heard: list[Tensor], **kwargs: Any) -> Any:
    """SDPA that adds its queries_BAND to `heard`, an argument of the model's own call."""
    heard.append(query)
    return sdpa_attention_forward(module, query, *args, **kwargs)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@final
@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard in one pass: every layer's queries_BAND, the states_BNE that the output head is given."""

    queries: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)


@contextmanager
def listening(model: Any) -> Iterator[tuple[Heard, dict[str, Any]]]:
    """What will be heard, and what the model must be called with for that."""
    heard = Heard()
    before = model.config._attn_implementation
    model.config._attn_implementation = _NAME
    handle = model.base_model.register_forward_hook(lambda _module, _args, output: heard.hidden.append(output.last_hidden_state))
    try:
        yield heard, {"heard": heard.queries}
    finally:
        handle.remove()
        model.config._attn_implementation = before


@final
class Recorder:
    """Keeps what `needs` names, of a batch whose rows take their prompt left-padded and then speak in step.

    Of the `num_new` tokens that a row prefills, the last `said` are words of its own that were known before.
    """

    def __init__(self, needs: frozenset[str], first_B: Sequence[int], num_new_B: Sequence[int], said_B: Sequence[int], vocab: int) -> None:
        self.needs, self._vocab = needs, vocab
        self._first, self._num_new, self._said = list(first_B), list(num_new_B), list(said_B)
        self._window: deque[list[Tensor]] = deque()
        self._probes: list[tuple[list[Tensor], Tensor]] = []  # queries_BAPD a layer, positions_BP (-1: none)
        self._predicted: list[Tensor] = []  # [B, N, 2]: entropies, confidences
        self._hidden: list[Tensor] = []  # [B, N, E]
        self._steps = self._chosen = 0

    def prefilled(self, heard: Heard) -> None:
        """The prompts' pass."""
        layers = heard.queries
        self._keep_hidden(heard)
        if WINDOW in self.needs:
            self._window.append([q[:, :, -_KEPT:].clone() for q in layers])
        if PROBES in self.needs:
            width = layers[0].shape[2]
            kept_B = [_probes(count - said, said) for count, said in zip(self._num_new, self._said, strict=True)]
            columns_BP = torch.full((len(kept_B), max(map(len, kept_B))), width - 1)
            positions_BP = torch.full_like(columns_BP, -1)
            for row, (first, count, kept) in enumerate(zip(self._first, self._num_new, kept_B, strict=True)):
                columns_BP[row, : len(kept)] = width - count + kept
                positions_BP[row, : len(kept)] = first + kept
            place = columns_BP[:, None, :, None].to(layers[0].device)
            taken = [q.gather(2, place.expand(-1, q.shape[1], -1, q.shape[3])) for q in layers]
            self._probes.append((taken, positions_BP))

    def _keep_hidden(self, heard: Heard) -> None:
        if HIDDEN in self.needs:
            self._hidden.append(heard.hidden[0])

    def stepped(self, heard: Heard) -> None:
        """The pass of one more token a row."""
        layers = heard.queries
        self._keep_hidden(heard)
        if WINDOW in self.needs:
            self._window.append([q.clone() for q in layers])
            if len(self._window) > _KEPT + 1:
                del self._window[1]  # the prompt's stay, for rows that say little
        if PROBES in self.needs and self._steps % _STRIDE == 0:
            positions = torch.tensor([f + n + self._steps for f, n in zip(self._first, self._num_new, strict=True)])
            self._probes.append(([q.clone() for q in layers], positions[:, None]))
        self._steps += 1

    def chosen(self, logits_BV: Tensor, ids: Sequence[int]) -> None:
        """What each row says next, and how it was predicted. Whoever ends with it has no K/V of it."""
        self.predicted(logits_BV[:, None])
        self._chosen += 1

    def predicted(self, logits_BNV: Tensor) -> None:
        """How N tokens were predicted."""
        if PREDICTIONS not in self.needs:
            return
        parts = []
        for logits in torch.split(logits_BNV[..., : self._vocab], 256, 1):
            logs = torch.log_softmax(logits.float(), dim=-1)
            entropy = -torch.where(logs > -torch.inf, logs.exp() * logs, 0.0).sum(-1)
            parts.append(torch.stack([entropy, logs.amax(-1).exp()], dim=-1))
        self._predicted.append(torch.cat(parts, dim=1))

    def keep(self, rows: Tensor) -> None:
        """Drops every row but these."""
        self._window = deque([[q[rows] for q in layers] for layers in self._window])
        self._probes = [([q[rows] for q in layers], positions[rows.cpu()]) for layers, positions in self._probes]
        self._predicted, self._hidden = ([p[rows] for p in parts] for parts in (self._predicted, self._hidden))
        self._first, self._num_new, self._said = ([v[r] for r in rows.tolist()] for v in (self._first, self._num_new, self._said))

    def take(self, row: int, num_decoded: int) -> Captured:
        """What is kept of a row that ends now."""
        first, count = self._first[row], self._num_new[row] + num_decoded
        entropy, confidence = self._predictions(row, count, self._chosen - num_decoded) if self._predicted else (None, None)
        return Captured(
            first=first,
            said=first + self._num_new[row] - self._said[row],
            window=self._last(row, first, count) if self._window else None,
            probes=self._probed(row) if self._probes else None,
            entropy_T=entropy,
            confidence_T=confidence,
            hidden_TE=torch.cat([h[row] for h in self._hidden])[-count:].clone() if self._hidden else None,
        )

    def _last(self, row: int, first: int, count: int) -> Queries:
        kept = min(_KEPT, count)
        steps = list(self._window)
        layers = tuple(torch.cat([step[layer][row] for step in steps], dim=1)[:, -kept:].clone() for layer in range(len(steps[0])))
        return Queries(torch.arange(first + count - kept, first + count), layers)

    def _probed(self, row: int) -> Queries:
        positions = torch.cat([p[row] for _, p in self._probes])
        real = positions >= 0
        layers = tuple(
            torch.cat([step[layer][row] for step, _ in self._probes], dim=1)[:, real.to(self._probes[0][0][0].device)]
            for layer in range(len(self._probes[0][0]))
        )
        return Queries(positions[real], layers)

    def _predictions(self, row: int, count: int, ahead: int) -> tuple[Tensor, Tensor]:
        """Of each of the turn's tokens; the first, which nothing of this turn predicted, gets the mean of the others.

        `ahead`: ids chosen that have no K/V yet.
        """
        every = torch.cat([p[row] for p in self._predicted]).cpu()
        known = every[len(every) - ahead - (count - 1) : len(every) - ahead]
        first = known.mean(0, keepdim=True) if len(known) else torch.zeros(1, 2)
        entropy, confidence = torch.cat([first, known]).unbind(-1)
        return entropy, confidence


def _probes(prompt: int, said: int) -> Tensor:
    """Which of a turn's new tokens are probes: some of its prompt, and every few words of its own."""
    return torch.cat([torch.linspace(0, prompt - 1, min(_KEPT, prompt)).round().long(), torch.arange(prompt, prompt + said, _STRIDE)])
