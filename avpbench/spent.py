"""What a run's parts took, so that the next one can be planned. Rates, not results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

from avpbench.meter import now_s


@final
class Spent:
    """Seconds by phase, and how many samples, blocks or scores they gave. `ready` is everything before the first of them."""

    def __init__(self) -> None:
        self._began = now_s()
        self.phases: dict[str, dict[str, float]] = {}

    def ready(self) -> None:
        """Models are loaded and gates passed."""
        self.phases["ready"] = {"seconds": now_s() - self._began, "count": 1}

    @contextmanager
    def __call__(self, phase: str, count: Callable[[], int]) -> Iterator[None]:
        """Times a phase; `count` is asked before and after it. A phase that is cut short says nothing."""
        began, before = now_s(), count()
        yield
        self.phases[phase] = {"seconds": now_s() - began, "count": count() - before}
