"""A hidden state made into an input again: what a latent step feeds back.

Axes: B rows, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor


@final
class Realign:
    """AVP's realignment, rescaled to the mean norm of the input embeddings whether the head is tied or not.

    Tied head: softmax(logits) E_in. Untied: h W with W = (E_out' E_out + 1e-5 I)^-1 E_out' E_in, solved once.
    """

    def __init__(self, model: Any, vocab: int) -> None:
        self._model, self._vocab = model, vocab

    def __call__(self, hidden_BE: Tensor, logits_BV: Tensor) -> Tensor:
        """The next inputs_BE, in the model's dtype."""
        table: Tensor = self._model.get_input_embeddings().weight
        if self._model.get_output_embeddings().weight is table:
            mixed = (torch.softmax(logits_BV.float(), dim=-1).to(table.dtype) @ table).float()
        else:
            mixed = hidden_BE.float() @ self._weight_EE
        norms = torch.linalg.vector_norm(mixed, dim=-1, keepdim=True)
        realigned: Tensor = mixed * (self.mean_norm / norms)
        return realigned.to(table.dtype)

    @cached_property
    def mean_norm(self) -> Tensor:
        """The mean norm of the input embeddings, rows that pad the vocabulary left out."""
        table: Tensor = self._model.get_input_embeddings().weight
        norms: Tensor = torch.linalg.vector_norm(table[: self._vocab].float(), dim=-1)
        return norms.mean()

    @cached_property
    def _weight_EE(self) -> Tensor:
        head: Tensor = self._model.get_output_embeddings().weight.float()
        table: Tensor = self._model.get_input_embeddings().weight.float()
        gram = head.T @ head + 1e-5 * torch.eye(head.shape[1], device=head.device)
        weight: Tensor = torch.linalg.solve(gram, head.T @ table)
        return weight


@contextmanager
def last_hidden(model: Any) -> Iterator[list[Tensor]]:
    """Collects what the output head was given at the last place: the last hidden state_BE of each pass."""
    seen: list[Tensor] = []

    def keep(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = [inputs[0][:, -1]]

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
