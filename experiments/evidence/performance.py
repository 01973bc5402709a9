"""How long `python -m analysis` takes, and how much memory, on made-up records of a study with every kind of table and figure.

    python experiments/evidence/performance.py [samples] [samples a cell]

Prints seconds of wall clock and of processor time (the first means something on an idle machine only) and the peak of memory.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from synthetic import write_run  # noqa: E402

from analysis.publish import publish  # noqa: E402

CHAINS = (3, 4, 5, 6, 9, 17)


def generate(root: Path, num_samples: int, per_cell: int) -> int:
    """Publishes as many cells of qkvshare_hops as hold so many samples together, seed by seed; returns their number."""
    words = ["strategy=raw"] + [
        f"strategy={s} strategy.budget_bits={b} strategy.requantize={r}"
        for b in (4, 8)
        for r in ("false", "true")
        for s in ("uniform", "adaptive")
    ]
    first = [(chain, way) for chain in CHAINS for way in words]
    wanted = -(-num_samples // per_cell)
    for k in range(wanted):
        variant, (chain, way) = divmod(k, len(first))[0], first[k % len(first)]
        base = ["study=qkvshare_hops", "fidelity=on", f"chain={chain}", f"model.variant={variant}", *way.split()]
        write_run(root / "runs", base, per_cell, lambda i, k=k: (i * 7 + k) % 10 < 7, lambda i, k=k: 0.01 * random.Random(i + k).random())
    publish("qkvshare_hops", root / "runs", root / "results" / "published")
    return wanted


def measure(root: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds and GiB of the command in a process of its own, in the given folder."""
    (root / "experiments").symlink_to(ROOT / "experiments")
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "analysis"], cwd=root, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def main(num_samples: int, per_cell: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cells = generate(Path(folder), num_samples, per_cell)
        took, processor, memory = measure(Path(folder))
        print(
            json.dumps(
                {
                    "samples": cells * per_cell,
                    "cells": cells,
                    "wall_s": round(took, 1),
                    "cpu_s": round(processor, 1),
                    "GiB": round(memory, 2),
                }
            )
        )


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(int(given.get(1, 100_000)), int(given.get(2, 1000)))
