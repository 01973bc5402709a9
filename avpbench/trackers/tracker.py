"""Views of the records for people who were not there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from avpbench.meta import Meta
from avpbench.records import SampleRecord
from avpbench.summary import Summary


class Tracker(ABC):
    """Is told what happens; keeps nothing that the records do not hold."""

    @abstractmethod
    def start(self, folder: Path, meta: Meta, done: Sequence[SampleRecord]) -> None:
        """A run begins, or goes on after the samples that are done, in this folder."""

    @abstractmethod
    def sample(self, record: SampleRecord) -> None:
        """A sample is on the disk."""

    @abstractmethod
    def preempted(self) -> None:
        """A scheduler takes the machine away; `finish` follows at once."""

    @abstractmethod
    def finish(self, folder: Path, samples: Sequence[SampleRecord], summary: Summary | None) -> None:
        """The run ends; `summary` is None where it was stopped or failed."""
