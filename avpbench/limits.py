"""The least time that a device's measured rates allow: a roofline over weights, caches, bytes and products. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Rates:
    """What a device was measured to do (avpbench.meter). A copied byte counts twice: read and written."""

    copy_bytes_per_s: float
    upload_bytes_per_s: float | None  # from the host's memory to the device's; None where they are one
    matmul_flop_per_s: float


@final
@dataclass(frozen=True, slots=True)
class Work:
    """What a forward pass of a model takes. `attention_flop` is for one new token over one token before it, all layers."""

    token_flop: int  # 2 a weight that every token meets: the layers without embedding and head
    head_flop: int  # of the last position
    attention_flop: int
    weight_bytes: int  # that a pass reads: layers and head
    kv_bytes: int  # a token's keys and values


def pass_flop(work: Work, cached_tokens: int, new_tokens: int) -> float:
    """Operations of a causal pass over the new tokens behind the cached ones, logits at the last position only."""
    pairs = new_tokens * (cached_tokens + new_tokens / 2)
    return work.token_flop * new_tokens + work.head_flop + work.attention_flop * pairs


def ttft_limit_s(work: Work, rates: Rates, cached_tokens: int, new_tokens: int, held_bytes: int, upload_bytes: int = 0) -> float:
    """Seconds to the first token at best.

    The parcel's `held_bytes` are read and the cached tokens' K/V written; then one pass reads the weights and every K/V, or
    computes, whichever takes longer. `upload_bytes` cross to the device first, where that is another memory.
    """
    upload_s = upload_bytes / rates.upload_bytes_per_s if rates.upload_bytes_per_s else 0.0
    inject_s = (held_bytes + work.kv_bytes * cached_tokens) / rates.copy_bytes_per_s
    read_s = (work.weight_bytes + work.kv_bytes * (cached_tokens + new_tokens)) / rates.copy_bytes_per_s
    return upload_s + inject_s + max(read_s, pass_flop(work, cached_tokens, new_tokens) / rates.matmul_flop_per_s)
