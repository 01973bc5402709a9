"""The console alone: what every run prints is enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from avpbench.meta import Meta
from avpbench.records import SampleRecord
from avpbench.summary import Summary
from avpbench.trackers.tracker import Tracker


@final
class Console(Tracker):
    """Adds nothing to what every run prints."""

    def start(self, folder: Path, meta: Meta, done: Sequence[SampleRecord]) -> None:
        """Nothing to open."""

    def sample(self, record: SampleRecord) -> None:
        """The progress bar shows it."""

    def preempted(self) -> None:
        """The run says it."""

    def finish(self, folder: Path, samples: Sequence[SampleRecord], summary: Summary | None) -> None:
        """Nothing to close."""
