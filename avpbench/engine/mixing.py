"""From hidden states to (token, probability) pairs at the sender, and from pairs to soft tokens at the receiver.

Axes: N states, K pairs a state, E hidden size, V vocabulary, S tokens that both models have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

_ROWS = 128  # states at a time: the head is read once for each of these, and their logits are held
_BLOCK = 1024  # rows of the head at a time: they stay in the processor's cache
_CACHED_ROWS = 8  # rows of logits that are looked at while they are in the processor's cache
_PRODUCTS = {torch.bfloat16: {"avx512_bf16", "amx_bf16", "bf16"}, torch.float16: {"avx512_fp16", "amx_fp16"}}  # any of them (bf16: ARM's)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """What each state says comes next.

    `columns_NK` are places in the given choice of tokens; `probs_NK` add up to 1 over K. `mass_N` is the share of the
    whole distribution that the K pairs hold, `entropy_N` that distribution's entropy in nats.
    """

    columns_NK: Tensor
    probs_NK: Tensor
    mass_N: Tensor
    entropy_N: Tensor


def in_blocks(head: torch.nn.Linear) -> Callable[[Tensor], Tensor]:
    """The head, for `top_pairs`; of many states on a CPU that multiplies its dtype slowly, the product in float32.

    A thousand rows of the matrix at a time are converted, used at once and never held; one state alone goes through the head as it is.
    """
    if head.weight.is_cuda or multiplies(head.weight.dtype):
        return head

    def product(rows_NE: Tensor) -> Tensor:
        if len(rows_NE) == 1:
            logits_1V: Tensor = head(rows_NE)
            return logits_1V
        wide_NE, out_NV = rows_NE.float(), torch.empty(len(rows_NE), head.out_features)
        for start in range(0, head.out_features, _BLOCK):
            rows = slice(start, start + _BLOCK)
            torch.mm(wide_NE, head.weight[rows].float().T, out=out_NV[:, rows])
        return out_NV if head.bias is None else out_NV + head.bias.float()

    return product


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for a product in this dtype."""
    if dtype not in _PRODUCTS:
        return True
    have: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 and later; before, nothing is known
    return any(have.get(name, False) for name in _PRODUCTS[dtype])


@torch.inference_mode()
def top_pairs(
    hidden_NE: Tensor, head: Callable[[Tensor], Tensor], vocab: int, chosen_S: Tensor | None, k: int, temperature: float
) -> Pairs:
    """The k likeliest tokens of softmax(head(hidden) / temperature) among the chosen ones, renormalised.

    Args:
        head: gives logits_NV (`in_blocks` of the model's own); called on 128 states at a time, so nothing of the size of its matrix
            is made.
        vocab: rows of the head from here on only pad it, and are masked.
        chosen_S: ids to choose among; None: all below `vocab`.
    """
    parts = []
    for rows_NE in torch.split(hidden_NE, _ROWS):
        logits_NV = head(rows_NE)[:, :vocab].float()
        if temperature != 1:
            logits_NV = logits_NV / temperature
        parts += [_pairs(few_NV, chosen_S, k) for few_NV in torch.split(logits_NV, _CACHED_ROWS)]
    return Pairs(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _pairs(logits_NV: Tensor, chosen_S: Tensor | None, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Columns, probabilities, kept mass and entropy of these few rows."""
    shares_NV = logits_NV.softmax(-1)
    total_N = logits_NV.amax(-1) - shares_NV.amax(-1).log()
    entropy_N = total_N - torch.linalg.vecdot(shares_NV, logits_NV)
    top_NK, columns_NK = (logits_NV if chosen_S is None else logits_NV[:, chosen_S]).topk(k, dim=-1)
    return columns_NK, top_NK.softmax(-1), (top_NK.logsumexp(-1) - total_N).exp(), entropy_N


@torch.inference_mode()
def mixture(tokens_NK: Tensor, probs_NK: Tensor, table_VE: Tensor, norm: Tensor) -> Tensor:
    """soft_NE: the rows of `table_VE` mixed by the probabilities, each scaled to `norm`; in the table's dtype."""
    parts = []
    for tokens, probs in zip(torch.split(tokens_NK, _ROWS), torch.split(probs_NK, _ROWS), strict=True):
        mixed_NE = torch.einsum("nk,nke->ne", probs, table_VE[tokens].float())
        parts.append(rescaled(mixed_NE, norm).to(table_VE.dtype))
    return torch.cat(parts)


def rescaled(rows_NE: Tensor, norm: Tensor) -> Tensor:
    """Each row with this norm; a row of zeros stays one."""
    own: Tensor = torch.linalg.vector_norm(rows_NE, dim=-1, keepdim=True)
    return rows_NE * (norm / own.clamp(min=1e-12))
