"""How rows are asked to go on, and what they become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from avpbench.core import Captured, KVCache
from avpbench.errors import OutOfMemory


@final
@dataclass(frozen=True, slots=True)
class Speech:
    """How one row speaks: a bound, its own random draws, and ids to feed instead of the chosen ones."""

    max_new_tokens: int
    generator: torch.Generator
    script: tuple[int, ...] | None = None


@final
@dataclass(frozen=True, eq=False, slots=True)
class Continuation:
    """What a row became.

    `token_ids` is the whole conversation without the stop token, 0 or 1 longer than the cache spans. `new_ids` are
    all the ids generated, the stop token among them; `finish` is `stop`, `length` or `script`, for thinking `latent`.
    """

    token_ids: tuple[int, ...]
    soft_NE: Tensor | None
    new_ids: tuple[int, ...]
    finish: str
    cache: KVCache
    cached_tokens: int
    prefilled_tokens: int
    latent_steps: int
    captured: Captured


class Prefilled(NamedTuple):
    """What reading the prompts left: every row's cache, the logits_BV of its next token, what was captured."""

    caches: list[KVCache]
    logits_BV: Tensor
    captured: list[Captured]


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raises OutOfMemory for what a device or the host could not hold."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(str(error)) from error
