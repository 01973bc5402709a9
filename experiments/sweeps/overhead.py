"""What a sweep costs beyond the models' own work: loads of a 12-cell sweep, and seconds a cell that are not the engine's.

python experiments/sweeps/overhead.py [KEY=VALUE ...]      on an idle machine; the overrides go to every cell

Model work is the time inside the engine's public calls (prefill, speak, think, behind, score) and inside loads. The
rest is the harness: composing, planning, gates' own bookkeeping, records, tracker, tables.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import avpbench.engine.load as loading
from avpbench.__main__ import main
from avpbench.engine.engine import Engine

GRID = ("strategy=raw,reprefill,text,blank", "seed=0,1,2")
FIXED = ("chain=4", "limit=32", "latency.repeats=1")
CALLS = ("prefill", "speak", "think", "behind", "score")


class Clock:
    """Seconds inside wrapped calls; one within another counts once."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - began

        return timed


def measure(words: list[str]) -> None:
    """One sweep in this process."""
    model, loads = Clock(), Clock()
    for name in CALLS:
        setattr(Engine, name, model.wrap(getattr(Engine, name)))
    names: list[str] = []
    real = loading.load

    def counted(source: Any, *rest: Any) -> Any:
        names.append(source.name)
        return loads.wrap(real)(source, *rest)

    loading.load = counted
    importlib.import_module("avpbench.runner")  # torch and its like are imported before the clock starts

    with tempfile.TemporaryDirectory() as store:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            status = main(["-m", *GRID, *FIXED, f"results={store}", *words])
        whole = time.perf_counter() - began
    harness = whole - model.seconds - loads.seconds
    print(f"cells: 12, exit status {status}; overrides: {' '.join(words) or 'none'}")
    print(f"models loaded: {len(names)} ({', '.join(names)}), {loads.seconds:.2f} s")
    print(f"whole sweep {whole:.1f} s, inside the engine {model.seconds:.1f} s")
    print(f"harness: {harness / 12:.2f} s a cell (under 1 wanted)")


if __name__ == "__main__":
    measure(sys.argv[1:])
