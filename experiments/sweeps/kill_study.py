"""A study under SLURM whose jobs are killed every few seconds, against an undisturbed one: are the samples the same?

python experiments/sweeps/kill_study.py [--cells 24] [--problems 32] [--kills 100] [--every 4] [--folder DIR]

The disturbances come by turns: SIGKILL, SIGTERM and SIGUSR2 to a running cell's process, and `scontrol requeue` of its
job. When the command ends with cells unfinished it is given again, as a person would. Needs a SLURM: one that
`SLURM_CONF` names, or else (as root, with slurm-wlm and munge) one of its own, of one node.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from runs import content

ROOT = Path(__file__).resolve().parents[2]
TURNS = ("SIGKILL", "SIGTERM", "SIGUSR2", "requeue")
AXES = ("strategy=raw,reprefill,text_full,blank", "chain=2,4", "seed=0,1,2")  # 24 cells
WORDS = ("tracker=console", "latency=off", "batch_size=2", "max_agent_tokens=160", "gates=fast")


def grid(cells: int) -> list[str]:
    """Axes of so many cells, from the front of each."""
    strategies, chains, seeds = (axis.split("=")[1].split(",") for axis in AXES)
    for chain, seed in ((len(chains), len(seeds)), (1, len(seeds)), (1, 1)):
        if cells % (chain * seed) == 0 and 1 <= cells // (chain * seed) <= len(strategies):
            kept = strategies[: cells // (chain * seed)], chains[:chain], seeds[:seed]
            return [f"{axis.split('=')[0]}={','.join(values)}" for axis, values in zip(AXES, kept, strict=True)]
    sys.exit(f"no grid of {cells} cells; take 24, 18, 12, 6, 9, 3, 4, 2 or 1")


@contextmanager
def scheduler(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a SLURM: the user's, or one of our own."""
    if "SLURM_CONF" in os.environ:
        yield dict(os.environ)
        return
    from slurm import missing, slurm

    if reason := missing():
        sys.exit(reason)
    with slurm(folder) as env:
        yield os.environ | env


def command(results: Path, problems: int, axes: list[str]) -> list[str]:
    slurm = [
        f"hydra.launcher.{word}" for word in ("cpus_per_task=1", "mem_gb=1", "gpus_per_node=null", "array_parallelism=3", "timeout_min=60")
    ]
    return [
        sys.executable,
        "-m",
        "avpbench",
        "-m",
        *axes,
        *WORDS,
        f"limit={problems}",
        f"results={results}",
        "hydra/launcher=slurm",
        *slurm,
    ]


def contents(results: Path) -> dict[str, list[dict[str, Any]]]:
    """Samples by cell, timings aside, in the order written."""
    return {path.parent.name: content(path.parent) for path in sorted(results.glob("adhoc/*/samples.jsonl"))}


def holders(results: Path) -> list[tuple[str, int, str]]:
    """The cells that run now, with their process and their SLURM job."""
    found = []
    for path in results.glob("adhoc/*/lock"):
        try:
            said = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if Path(f"/proc/{said['pid']}").exists():
            found.append((path.parent.name, said["pid"], said["job"]))
    return found


def disturb(turn: str, process: int, job: str, env: dict[str, str]) -> bool:
    """Strikes once; whether it hit."""
    if turn == "requeue":
        return subprocess.run(["scontrol", "requeue", job], env=env, capture_output=True, check=False).returncode == 0
    try:
        os.kill(process, signal.Signals[turn])
    except ProcessLookupError:
        return False
    return True


def hurry(env: dict[str, str]) -> None:
    """A requeued job waits two minutes; not here."""
    shown = subprocess.run(["scontrol", "-o", "show", "jobs"], env=env, capture_output=True, text=True, check=False).stdout
    for job in re.findall(r"JobId=(\d+).*?Reason=BeginTime", shown):
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=env, capture_output=True, check=False)


def disturbed(args: argparse.Namespace, results: Path, axes: list[str], env: dict[str, str], before: Counter[str]) -> Counter[str]:
    """Gives the command until it succeeds, and strikes meanwhile until there were enough; returns what struck, all in all."""
    rng = random.Random(sum(before.values()))
    struck = Counter(before)
    for given in range(1, 10**6):
        log = (results.parent / f"{results.name}.log").open("a")
        job = subprocess.Popen(command(results, args.problems, axes), env=env, stdout=log, stderr=log)
        while job.poll() is None:
            time.sleep(args.every * (0.5 + rng.random()))
            hurry(env)
            running = holders(results)
            if running and struck.total() < args.kills:
                cell, process, number = rng.choice(running)
                turn = TURNS[struck.total() % len(TURNS)]
                lines = (
                    (results / "adhoc" / cell / "samples.jsonl").read_bytes().count(b"\n")
                    if list(results.glob(f"adhoc/{cell}/*.jsonl"))
                    else 0
                )
                if disturb(turn, process, number, env):
                    struck[turn] += 1
                    print(f"  {struck.total():3d} {turn:8s} {cell} with {lines} of {args.problems} samples", flush=True)
        log.close()
        print(f"  the command was given {given} times; it ended with {job.returncode}, after {struck.total()} kills", flush=True)
        if job.returncode == 0:
            return struck
    raise AssertionError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("cells", 24), ("problems", 32), ("kills", 100), ("every", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    axes = grid(args.cells)
    with TemporaryDirectory() as name, scheduler(Path(name) / "slurm") as env:
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        folder = args.folder or Path(name) / "results"
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        calm = subprocess.run(command(folder / "calm", args.problems, axes), env=env, capture_output=True, text=True, check=False)
        if calm.returncode:
            print(calm.stdout, calm.stderr)
            return 1
        truth = contents(folder / "calm")
        samples = sum(len(rows) for rows in truth.values())
        print(f"undisturbed: {len(truth)} cells, {samples} samples, {time.monotonic() - began:.0f} s", flush=True)
        struck: Counter[str] = Counter()
        runs = 0
        while struck.total() < args.kills:
            runs += 1
            struck = disturbed(args, folder / f"wild-{runs}", axes, env, struck)
            found = contents(folder / f"wild-{runs}")
            same = {cell: found.get(cell) == rows for cell, rows in truth.items()}
            print(f"study {runs}: {sum(same.values())} of {len(truth)} samples.jsonl are the same as the undisturbed ones")
            if set(found) != set(truth) or not all(same.values()):
                print("DIFFERENT:", *[cell for cell, equal in same.items() if not equal])
                return 1
        kinds = ", ".join(f"{count} {turn}" for turn, count in struck.items())
        print(
            f"{struck.total()} kills ({kinds}) over {runs} studies of {len(truth)} cells x {args.problems} problems: nothing lost, nothing twice"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
