"""How long until a user sees something: --help, the first line of a run, show, and the whole default run, each in a new process.

python experiments/spine/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

HEAVY = ("torch", "transformers", "wandb", "pandas")


def seconds(words: list[str], first_line: bool) -> float:
    """Until the first line of output, or until the end."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "avpbench", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
        assert job.stdout is not None
        job.stdout.readline()
        if not first_line:
            job.stdout.read()
            job.wait()
        took = time.perf_counter() - began
        job.kill()
    return took


def imported(words: list[str]) -> list[str]:
    """Which heavy modules the command imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "avpbench", *words], capture_output=True, text=True, check=True)
    names = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    return [name for name in HEAVY if name in names]


def main() -> None:
    with tempfile.TemporaryDirectory() as results:
        rows = {
            "--help, whole (under 1 s wanted)": seconds(["--help"], first_line=False),
            "a run's first line (1.5 s wanted)": seconds([f"results={results}"], first_line=True),
            "show's first line (1.5 s wanted)": seconds(["show"], first_line=True),
            "python -m avpbench, whole (under 120 s wanted)": seconds([f"results={results}/whole"], first_line=False),
        }
    for label, took in rows.items():
        print(f"{label}: {took:.2f} s")
    print(f"--help imports of {', '.join(HEAVY)}: {', '.join(imported(['--help'])) or 'none'}")


if __name__ == "__main__":
    main()
