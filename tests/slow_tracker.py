"""A tracker that takes its time, or its process's life, after each sample: for tests that interfere with a running job."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import final

from avpbench.meta import Meta
from avpbench.records import SampleRecord
from avpbench.summary import Summary
from avpbench.trackers.tracker import Tracker


@final
class Slow(Tracker):
    """Sleeps `seconds` after a sample and `closing` at the end; after `dies_after` samples the process kills itself.

    Writes what it is told to stdout.
    """

    def __init__(self, seconds: float = 0.0, closing: float = 0.0, dies_after: int | None = None) -> None:
        self._seconds, self._closing, self._left = seconds, closing, dies_after

    def start(self, folder: Path, meta: Meta, done: Sequence[SampleRecord]) -> None:
        print("tracker: start", len(done), flush=True)

    def sample(self, record: SampleRecord) -> None:
        time.sleep(self._seconds)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def preempted(self) -> None:
        print("tracker: preempted", flush=True)

    def finish(self, folder: Path, samples: Sequence[SampleRecord], summary: Summary | None) -> None:
        time.sleep(self._closing)
        print("tracker: finish", "whole" if summary else "unfinished", flush=True)
