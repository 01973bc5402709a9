"""A study's progress across all its jobs, from what they have written. Reads only; light to import."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from avpbench.errors import RecordsError, cause
from avpbench.store import Records, Wanted, read_json, run_folders

_SILENT_S = 60  # a holder on another machine that has not touched its lock for so long may be gone


@final
@dataclass(frozen=True, slots=True)
class CellStatus:
    """One cell. `state`: done, running, partial, to do, failed, unreadable; `note`: who runs it, or what went wrong."""

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
        notes: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(".grids/*.json")):
            notes |= read_json(path)
        begun = {path.name: path for path in run_folders(self.folder)}
        return [self._cell(self.folder / name, notes.get(name, {})) for name in dict.fromkeys([*notes, *begun])]

    def rate(self, now: float, done: int) -> float | None:
        """Samples a second since the first look; None at the first, or where nothing came since."""
        if self._first is None:
            self._first = (now, done)
        began, before = self._first
        return (done - before) / (now - began) if now > began and done > before else None

    def _cell(self, folder: Path, note: dict[str, Any]) -> CellStatus:
        have = self._records.setdefault(folder, Records(folder)).refresh()
        given = str(note.get("given") or "")
        try:
            meta = read_json(folder / "meta.json")
            wanted = _wanted(meta, note)
            failure = read_json(folder / "failure.json")
        except (RecordsError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, RecordsError) else f"meta.json is not one of this version ({cause(error)})"
            return CellStatus(folder.name, given, "unreadable", len(have.ids), None, None, have.num_errors, 0, 0, why)
        holder = holder_of(folder)
        state, told = self._state(folder, have, wanted, holder, failure)
        if have.num_broken:
            told = f"{told + '; ' if told else ''}{have.num_broken} broken lines: python -m avpbench verify {folder}"
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

    def _state(self, folder: Path, have: Records, wanted: Wanted, holder: str | None, failure: dict[str, Any]) -> tuple[str, str | None]:
        if holder is not None:
            return "running", holder
        if wanted.left(have).nothing and (folder / "summary.json").exists():
            return "done", None
        if failure:
            first = str(failure.get("message", "")).strip().splitlines()[:1]
            return "failed", ": ".join([str(failure.get("error")), *first])
        return ("partial" if have.ids or have.rows or have.scored else "to do"), None


def _wanted(meta: dict[str, Any], note: dict[str, Any]) -> Wanted:
    """What the grid asks for, else what the run's own config asked for."""
    if meta:
        own = Wanted.of(meta["config"], meta.get("num_samples"))
        return Wanted(note.get("samples") or own.samples, note.get("blocks", own.blocks), note.get("scores") or own.scores) if note else own
    return Wanted(note.get("samples"), note.get("blocks", 0), note.get("scores"))


def holder_of(folder: Path) -> str | None:
    """Who runs in a folder; None where nobody does, as far as this machine can tell."""
    lock = folder / "lock"
    try:
        said = json.loads(lock.read_text(encoding="utf-8"))
        who, host, pid = f"process {said['pid']} on {said['host']}", said["host"], int(said["pid"])
        silent_s = time.time() - lock.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host != socket.gethostname():
        return who if silent_s < _SILENT_S else f"{who}, silent for {silent_s:.0f} s"
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
    return who
