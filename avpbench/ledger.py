"""How the jobs of one multirun went, a small file a job, written by whoever runs it, wherever that is. Light to import.

A launcher gives back nothing for a job that was killed; what it wrote here remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, final

from avpbench.failures import Failure
from avpbench.files import make_folder, read_json, write_json

State = Literal["running", "done", "failed", "impossible", "held", "stopped", "left_out"]


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One job. `given` are its overrides, `folder` its cell's; `summary` is the row of a job that is done."""

    number: int
    given: str
    state: State
    folder: str | None = None
    summary: dict[str, Any] | None = None
    failure: Failure | None = None

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        failure = row["failure"] and Failure.from_json(row["failure"])
        return cls(**(row | {"failure": failure}))


def distinct(given: Sequence[str]) -> list[str]:
    """The same overrides without the words that all of these jobs share."""
    shared = set.intersection(*(set(one.split()) for one in given)) if len(given) > 1 else set()
    return [" ".join(word for word in one.split() if word not in shared) for one in given]


@final
class Ledger:
    """The jobs of the multirun whose sweep folder this is."""

    def __init__(self, sweep: Path) -> None:
        self._folder = sweep / "jobs"

    def write(self, entry: Entry) -> None:
        """Replaces what the ledger says of this job. Raises RecordsError where it cannot be written."""
        make_folder(self._folder)
        write_json(self._folder / f"{entry.number}.json", asdict(entry))

    def entries(self) -> list[Entry]:
        """Every job that has begun, in the order of the grid."""
        found = [Entry.from_json(read_json(path)) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda entry: entry.number)

    def num_failed(self) -> int:
        """Jobs that failed so far."""
        return sum(entry.state == "failed" for entry in self.entries())
