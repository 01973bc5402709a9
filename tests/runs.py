"""Whole runs in a folder of a test's own, and what they leave, timings aside."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from avpbench import run
from avpbench.config import compose, identify

FAST = ("tracker=console", "latency=off", "chain=2", "max_agent_tokens=12", "max_new_tokens=16", "batch_size=4")


def heard() -> None:
    """For `preexec_fn`: what a shell's background job ignores reaches this child."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def go(results: Path, *words: str) -> dict[str, Any]:
    """A run's summary."""
    return run(*FAST, f"results={results}", *words).row()


def folder(results: Path, *words: str) -> Path:
    """Where the run of these words lies."""
    return identify(compose([*FAST, f"results={results}", *words])).within(results)


def content(path: Path) -> list[dict[str, Any]]:
    """A cell's samples without what may differ between runs: process numbers and seconds."""
    rows = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        del row["end_to_end_s"], row["process"]
        for hop in row["hops"]:
            del hop["sender_pid"], hop["receiver_pid"], hop["stages_s"]
    return rows
