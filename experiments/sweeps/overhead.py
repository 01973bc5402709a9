"""What a sweep costs beyond the models' own work: loads of a 12-cell sweep, and seconds a cell that are not the engine's.

python experiments/sweeps/overhead.py [KEY=VALUE ...]      on an idle machine; the overrides go to every cell

Model work is the time inside the engine's public calls (prefill, speak, think, behind, score) and inside loads. The
rest is the harness: composing, planning, gates' own bookkeeping, records, tracker, tables. CPU seconds are printed beside
the clock's: on a machine with other work they say more.
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
    """Seconds, and this process's CPU seconds, inside wrapped calls; one within another counts once."""

    def __init__(self) -> None:
        self.seconds = self.cpu_s = 0.0
        self._depth = 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            began, cpu = time.perf_counter(), time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - began
                    self.cpu_s += time.process_time() - cpu

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
        began, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            status = main(["-m", *GRID, *FIXED, f"results={store}", *words])
        whole, whole_cpu = time.perf_counter() - began, time.process_time() - cpu
    harness, harness_cpu = whole - model.seconds - loads.seconds, whole_cpu - model.cpu_s - loads.cpu_s
    print(f"cells: 12, exit status {status}; overrides: {' '.join(words) or 'none'}")
    print(f"models loaded: {len(names)} ({', '.join(names)}), {loads.seconds:.2f} s")
    print(f"whole sweep {whole:.1f} s, inside the engine {model.seconds:.1f} s ({whole_cpu:.1f} and {model.cpu_s:.1f} s of CPU)")
    print(f"harness: {harness / 12:.2f} s a cell (under 1 wanted), {harness_cpu / 12:.2f} s of CPU")


if __name__ == "__main__":
    measure(sys.argv[1:])
