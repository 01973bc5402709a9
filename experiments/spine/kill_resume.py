"""A run killed with SIGKILL at a random moment, twenty times over, against an undisturbed one: are the samples the same?

python experiments/spine/kill_resume.py [kills]
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WORDS = ("tracker=console", "latency.repeats=4", "batch_size=4", "limit=160", "chain=4")


def command(results: Path) -> list[str]:
    return [sys.executable, "-m", "avpbench", *WORDS, f"results={results}"]


def samples(results: Path) -> Path | None:
    return next(results.rglob("samples.jsonl"), None)


def content(path: Path) -> list[dict[str, Any]]:
    """Samples without process numbers and seconds."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for hop in row["hops"]:
            del hop["sender_pid"], hop["receiver_pid"], hop["stages_s"]
    return rows


def main(wanted: int) -> None:
    rng = random.Random(0)
    with TemporaryDirectory() as folder:
        calm, wild = Path(folder) / "calm", Path(folder) / "wild"
        began = time.monotonic()
        subprocess.run(command(calm), check=True, stdout=subprocess.DEVNULL)
        print(f"undisturbed: {len(content(samples(calm)))} samples in {time.monotonic() - began:.0f} s")  # type: ignore[arg-type]
        lasts = time.monotonic() - began
        kills = 0
        while kills < wanted:
            job = subprocess.Popen(command(wild), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.random() * lasts / 2)
            if job.poll() is not None:
                print(f"the run ended after {kills} kills")
                break
            job.kill()
            job.wait()
            kills += 1
            path = samples(wild)
            data = path.read_bytes() if path else b""
            torn = ", a torn one" if data and not data.endswith(b"\n") else ""
            print(f"kill {kills}: {data.count(bytes([10]))} whole lines{torn}", flush=True)
        subprocess.run(command(wild), check=True, stdout=subprocess.DEVNULL)
        same = content(samples(calm)) == content(samples(wild))  # type: ignore[arg-type]
        print(f"{kills} kills: samples.jsonl {'is the same as' if same else 'DIFFERS from'} the undisturbed run's, line by line")
        sys.exit(not same or kills < wanted)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
