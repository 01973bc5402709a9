"""A run killed with SIGKILL at a random moment, twenty times over, against an undisturbed one: are the samples the same?

python experiments/spine/kill_resume.py [kills]
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from runs import content

WORDS = ("tracker=console", "latency.repeats=4", "batch_size=4", "limit=160", "chain=4")


def command(results: Path) -> list[str]:
    return [sys.executable, "-m", "avpbench", *WORDS, f"results={results}"]


def samples(results: Path) -> Path | None:
    return next(results.rglob("samples.jsonl"), None)


def left(results: Path) -> list[dict[str, Any]]:
    """What a run that ended left, timings aside."""
    path = samples(results)
    assert path
    return content(path.parent)


def disturbed(results: Path, rng: random.Random, within_s: float, kills: int) -> int:
    """Starts the run until it ends by itself or was killed so many times, then lets it end; returns the kills."""
    for kill in range(kills):
        job = subprocess.Popen(command(results), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * within_s)
        if job.poll() is not None:
            return kill
        job.kill()
        job.wait()
        path = samples(results)
        data = path.read_bytes() if path else b""
        torn = ", a torn one" if data and not data.endswith(b"\n") else ""
        print(f"  killed with {data.count(bytes([10]))} whole lines{torn}", flush=True)
    subprocess.run(command(results), check=True, stdout=subprocess.DEVNULL)
    return kills


def main(wanted: int) -> None:
    rng = random.Random(0)
    with TemporaryDirectory() as folder:
        calm = Path(folder) / "calm"
        began = time.monotonic()
        subprocess.run(command(calm), check=True, stdout=subprocess.DEVNULL)
        lasts = time.monotonic() - began
        truth = left(calm)
        print(f"undisturbed: {len(truth)} samples in {lasts:.0f} s")
        kills = runs = 0
        while kills < wanted:
            runs += 1
            wild = Path(folder) / f"wild-{runs}"
            kills += disturbed(wild, rng, lasts / 2, wanted - kills)
            same = left(wild) == truth
            print(f"run {runs}, {kills} kills so far: samples.jsonl {'is the same as' if same else 'DIFFERS from'} the undisturbed run's")
            if not same:
                sys.exit(1)
        print(f"{kills} kills over {runs} runs: nothing lost, nothing done twice")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
