"""A study's progress across all its jobs, from what they have written. Reads only; light to import."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from avpbench import failures, grids
from avpbench.errors import RecordsError, cause
from avpbench.failures import Failure
from avpbench.files import read_json
from avpbench.grids import Note
from avpbench.lock import holder_of
from avpbench.store import Records, Wanted, progress, run_folders


@final
@dataclass(frozen=True, slots=True)
class CellStatus:
    """One cell. `state`: done, running, partial, to do, failed, impossible, unreadable; `note`: who runs it, or what went wrong."""

    folder: str
    given: str
    state: str
    samples: int
    samples_wanted: int | None
    accuracy: float | None
    errors: int
    blocks: int
    blocks_wanted: int
    note: str | None


@final
class Study:
    """A study's folder, looked at again and again: only what is new in it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[Path, Records] = {}
        self._first: tuple[float, int] | None = None

    def look(self) -> list[CellStatus]:
        """Every cell that a grid was to run or that has a folder, as it is now."""
        notes = grids.read(self.folder)
        begun = {path.name: path for path in run_folders(self.folder)}
        return [self._cell(self.folder / name, notes.get(name)) for name in dict.fromkeys([*notes, *begun])]

    def rate(self, now: float, done: int) -> float | None:
        """Samples a second since the first look; None at the first, or where nothing came since."""
        if self._first is None:
            self._first = (now, done)
        began, before = self._first
        return (done - before) / (now - began) if now > began and done > before else None

    def _cell(self, folder: Path, note: Note | None) -> CellStatus:
        have = self._records.setdefault(folder, Records(folder)).refresh()
        given = note.given if note else ""
        try:
            meta = read_json(folder / "meta.json")
            wanted = _wanted(meta, note).and_what_is_there(have)
            failure = failures.read(folder)
        except (RecordsError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, RecordsError) else f"meta.json is not one of this version ({cause(error)})"
            return CellStatus(folder.name, given, "unreadable", len(have.ids), None, None, have.num_errors, 0, 0, why)
        state, told = self._state(folder, have, wanted, failure)
        if have.broken:
            told = f"{told + '; ' if told else ''}{len(have.broken)} broken lines: python -m avpbench verify {folder}"
        return CellStatus(
            folder=folder.name,
            given=given,
            state=state,
            samples=len(have.ids),
            samples_wanted=wanted.samples,
            accuracy=have.num_correct / len(have.ids) if have.ids else None,
            errors=have.num_errors,
            blocks=have.num_blocks,
            blocks_wanted=wanted.blocks,
            note=told,
        )

    def _state(self, folder: Path, have: Records, wanted: Wanted, failure: Failure | None) -> tuple[str, str | None]:
        if (holder := holder_of(folder)) is not None:
            return "running", holder
        state = progress(have, wanted.left(have))
        if failure is None or state == "done":
            return state, None
        return "impossible" if failure.impossible else "failed", failure.line


def _wanted(meta: dict[str, Any], note: Note | None) -> Wanted:
    """What the grid asks for, else what the run's own config asked for."""
    own = Wanted.of(meta["config"], meta.get("num_samples")) if meta else Wanted(None, 0, None)
    if note is None:
        return own
    asked = note.wanted
    return replace(
        asked,
        samples=own.samples if asked.samples is None else asked.samples,
        scores=own.scores if asked.scores is None else asked.scores,
    )
