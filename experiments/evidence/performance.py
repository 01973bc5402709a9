"""How long `python -m analysis` takes, and how much memory, on made-up records of every cell of a study with tables, contrasts and figures.

    python experiments/evidence/performance.py [samples]

Prints seconds of wall clock and of processor time (the first means something on an idle machine only), the peak of memory, and how many
lines say that something is missing or refused (0: everything was computed).
"""

from __future__ import annotations

import json
import random
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
TITLE = "## Depth: "
LEVELS = ("level2", "level4", "level8")


def ways(chain: int) -> list[list[str]]:
    """The words of every cell that qkvshare_hops asks for at this length of the chain."""
    others = [["strategy=raw"], ["strategy=reprefill"], ["strategy=text"], ["strategy=blank"], ["strategy=raw", "donor=other"]]
    forms = [(level, "false") for level in LEVELS] + [(level, "true") for level in LEVELS if level == "level2" or chain == 6]
    return others + [
        [f"strategy={name}", f"strategy.budget_bits={level}", f"strategy.requantize={again}"]
        for name in ("uniform", "adaptive")
        for level, again in forms
    ]


def generate(root: Path, num_samples: int) -> int:
    """Publishes the study, so many samples in all its cells together (rounded up); returns the number of cells."""
    cells = [(variant, chain, words) for variant in range(3) for chain in CHAINS for words in ways(chain)]
    for k, (variant, chain, words) in enumerate(cells):
        scored = words[-1] != "donor=other"
        base = [
            "study=qkvshare_hops",
            "latency=off",
            f"fidelity={'on' if scored else 'off'}",
            f"chain={chain}",
            f"model.variant={variant}",
            *words,
        ]
        kl = (lambda i, k=k: 0.01 * random.Random(i + k).random()) if scored else None
        bits = next((float(word[-1]) for word in words if "budget_bits" in word), None)
        num = -(-num_samples // len(cells))
        write_run(root / "runs", base, num, lambda i, k=k: (i * 7 + k) % 10 < 7, kl, scored_bits=bits)
    publish("qkvshare_hops", root / "runs", root / "results" / "published")
    return len(cells)


# The process says its peak itself: the kernel's count for its parent (ru_maxrss) begins with what the parent held as it was started.
COMMAND = """
import resource, runpy, sys
sys.argv = ["analysis"]
try:
    runpy.run_module("analysis", run_name="__main__")
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print("used", used.ru_utime + used.ru_stime, peak, file=sys.stderr)
"""


def measure(root: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds and GiB of the command in a process of its own, in the given folder."""
    (root / "experiments").symlink_to(ROOT / "experiments")
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", COMMAND], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    took = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"python -m analysis ended with {done.returncode}: {done.stderr}")
    _, processor, peak_kib = done.stderr.splitlines()[-1].split()
    return took, float(processor), int(peak_kib) / 2**20


def gaps(root: Path) -> list[str]:
    """What the study's chapter says is missing or refused."""
    chapter = (root / "BENCHMARKS.md").read_text(encoding="utf-8").partition(TITLE)[2].partition("\n## ")[0]
    return [line for line in chapter.splitlines() if line.startswith("- ") and ("missing: " in line or "refused: " in line)]


def main(num_samples: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cells = generate(Path(folder), num_samples)
        took, processor, memory = measure(Path(folder))
        samples = cells * -(-num_samples // cells)
        told = {"samples": samples, "cells": cells, "wall_s": round(took, 1), "cpu_s": round(processor, 1), "GiB": round(memory, 2)}
        print(json.dumps(told | {"gaps": len(gaps(Path(folder)))}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
