"""What a long step shows: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

from avpbench.meter import now_s

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 160  # a file or a pipe has no edge
_EVERY_S = 10.0


class Advance(Protocol):
    def __call__(self, steps: int, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Shows how far a step is, its rate and the time left. Yields a function to call with the steps just done."""
    if console.is_terminal:
        with _bar(label, total, done) as advance:
            yield advance
        return
    started = last = now_s()
    at = done

    def line(steps: int, note: str = "") -> None:
        nonlocal at, last
        at += steps
        spent = now_s() - started
        if now_s() - last >= _EVERY_S and at > done:
            last = now_s()
            rate = (at - done) / spent
            console.print(f"{label}: {at}/{total}  {rate:.2f}/s  {(total - at) / rate:.0f} s left  {note}".rstrip())

    yield line


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="", note="")
        started, fresh = now_s(), 0

        def advance(steps: int, note: str = "") -> None:
            nonlocal fresh
            fresh += steps
            bar.update(task, advance=steps, note=note, rate=f"{fresh / max(now_s() - started, 1e-9):.2f}/s")

        yield advance


def say(text: str) -> None:
    """One line to the user, at once."""
    console.print(text, markup=False)
    sys.stdout.flush()
