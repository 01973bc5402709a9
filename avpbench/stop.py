"""Ctrl-C: the first one stops after the current block, a second one at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from avpbench.progress import say


@contextmanager
def stop_requested() -> Iterator[Callable[[], None]]:
    """Yields a check that raises KeyboardInterrupt once a stop was asked for; phases call it between blocks."""
    asked = False

    def ask(_signal: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("stopping after the current block; Ctrl-C again stops at once")

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: whoever owns it decides
        yield check
        return
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
