"""A grid against the store: what is done, partial, to do or impossible, and what the rest will take. Light to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from avpbench.composer import Composer
from avpbench.errors import ConfigError, RecordsError
from avpbench.estimate import History, memory_bytes
from avpbench.files import read_json
from avpbench.grid import Grid, Planned
from avpbench.meta import WAYS_ON, changes, here
from avpbench.store import KINDS, Records, Wanted, progress, run_folders

_SIZES = (
    "model",
    "receiver",
    "roles",
    "chain",
    "context",
    "think_steps",
    "batch_size",
    "limit",
    "dtype",
    "device",
    "quality",
    "fidelity",
)  # of memory
State = Literal["done", "partial", "to do", "refused", "impossible"]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One cell of a plan. None: not known, or (impossible) not asked."""

    given: str
    state: State
    why: str | None
    folder: str | None = None
    samples_left: int | None = None
    blocks_left: int | None = None
    scores_left: int | None = None
    memory_bytes: int | None = None
    seconds: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Outlook:
    """A whole plan. `seconds` adds up what is known, `num_unknown` counts cells to run of which it is not."""

    rows: tuple[Row, ...]
    num_combinations: int
    num_equal: int
    left_out: tuple[str, ...]
    seconds: float
    num_unknown: int
    max_hours: float | None

    def counts(self) -> dict[str, int]:
        """Cells by state."""
        found = {"done": 0, "partial": 0, "to do": 0, "refused": 0, "impossible": 0}
        for row in self.rows:
            found[row.state] += 1
        return found

    def check(self) -> None:
        """Raises ConfigError where the grid would take longer than `max_hours`, or nobody can say."""
        if self.max_hours is None:
            return
        hours = self.seconds / 3600
        if hours > self.max_hours:
            raise ConfigError(
                f"this grid would take about {hours:.2f} h, max_hours={self.max_hours:g} allows less; make it smaller or raise it"
            )
        if self.num_unknown:
            raise ConfigError(
                f"max_hours={self.max_hours:g}: nothing like {self.num_unknown} of these cells was ever run here, so nobody can say how"
                " long they take; run the plan with --probe first, which runs one block of each kind, or leave max_hours out"
            )


def outlook(found: Grid, composer: Composer) -> Outlook:
    """The plan of a grid. Reads the store, changes nothing."""
    roots = dict.fromkeys(cell.values["results"] for cell in found.cells)
    history = History(folder for root in roots for folder in run_folders(Path(root)))
    memory: dict[str, int | None] = {}
    rows = [_row(cell, history, composer, memory) for cell in found.cells]
    rows += [Row(one.given, "impossible", one.why) for one in found.impossible]
    bounds = [float(h) for cell in found.cells if (h := cell.values["max_hours"]) is not None]
    return Outlook(
        rows=tuple(rows),
        num_combinations=found.num_combinations,
        num_equal=found.num_equal,
        left_out=found.left_out,
        seconds=sum(row.seconds or 0.0 for row in rows),
        num_unknown=sum(row.seconds is None and row.state in ("partial", "to do") for row in rows),
        max_hours=min(bounds, default=None),
    )


def _row(cell: Planned, history: History, composer: Composer, memory: dict[str, int | None]) -> Row:
    values, folder = cell.values, cell.folder
    exists = folder.is_dir()
    try:
        meta = read_json(folder / "meta.json") if exists else {}
        why = _conflict(cell, folder, meta)
    except RecordsError as error:
        meta, why = {}, str(error)
    if why is not None:
        return Row(cell.given, "refused", why, str(folder))
    have = Records(folder)
    if exists and values["resume"] != "never":  # which would set them aside
        have.refresh()
    if have.broken:
        why = f"not a record: {', '.join(have.broken[:3])}; repair or remove the line"
        return Row(cell.given, "refused", why, str(folder))
    left = Wanted.of(values, meta.get("num_samples")).left(have)
    key = repr([values[k] for k in _SIZES])
    if key not in memory:
        memory[key] = memory_bytes(values, composer.model)
    return Row(
        cell.given, progress(have, left), None, str(folder), left.samples, left.blocks, left.scores,
        memory[key], history.seconds(values, left),
    )  # fmt: skip


def _conflict(cell: Planned, folder: Path, meta: dict[str, Any]) -> str | None:
    """Why a run would refuse to go on in the cell's folder; None where it would not."""
    resume = cell.values["resume"]
    if resume == "never" or not any((folder / f"{kind}.jsonl").exists() for kind in KINDS):
        return None
    if not meta:
        return "its folder holds records and no meta.json; move the folder away, or resume=never sets them aside"
    if meta.get("cell") != cell.identity.hash:
        return f"its folder holds cell {meta.get('cell')}, another one; choose another folder with results=DIR"
    if resume == "anyway":
        return None
    changed = changes(meta.get("identity") or {}, here())
    return f"its folder holds records of a run that differs in {'; '.join(changed)}; {WAYS_ON}" if changed else None
