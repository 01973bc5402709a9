"""Records as data frames, from published studies or from runs' own folders; the same columns either way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.errors import Damaged, NoRecords
from analysis.publish import KINDS, MEND, PUBLISHED, read_cell, rows_of

TEXT = ("turns", "hops", "completion", "error")  # columns that only transcripts need
_EMPTY: dict[str, list[str]] = {"cell": []}  # records of which there are none
_PARTS = {  # what no table can do without, of a cell and of each kind of record
    "meta": {"cell", "command", "config", "gates", "identity", "notes", "roofline"},
    "meta.identity": {"device", "dtype", "prompts", "data", "code", "libraries", "weights"},
    "summary": {"label", "strategy", "chain", "num_samples", "num_scored", "num_blocks"}, "records": set(KINDS),
}  # fmt: skip
_COLUMNS = {
    "samples": {"cell", "sample_id", "correct"}, "fidelity": {"cell", "sample_id", "kl"},
    "latency": {"cell", "process", "block", "strategy", "clock", "seconds", "aa", "fell_back"},
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Study:
    """Cells by hash (their folder, meta and summary), and frames of records with a column `cell`; empty where there are none.

    `damaged` says, by cell, what of its records cannot be read.
    """

    name: str
    cells: dict[str, dict[str, Any]]
    samples: pd.DataFrame
    latency: pd.DataFrame
    fidelity: pd.DataFrame
    damaged: dict[str, str]


def names(published: Path = PUBLISHED) -> list[str]:
    """The published studies."""
    return sorted(p.parent.name for p in published.glob("*/cells.json"))


def load(study: str, published: Path = PUBLISHED, text: bool = True) -> Study:
    """A published study; without `text`, no transcripts. A file that cannot be read makes every cell damaged that has records in it."""
    folder = published / study
    if not (folder / "cells.json").exists():
        raise NoRecords(f"no study {study!r} in {published}; there are {', '.join(names(published)) or 'none'}{_looked(published)}")
    try:
        found = json.loads((folder / "cells.json").read_text(encoding="utf-8"))
        cells = {c["meta"]["cell"]: c for c in map(_whole, found)}
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / 'cells.json'} cannot be read ({type(error).__name__}: {error}); {MEND}") from error
    frames: dict[str, pd.DataFrame] = {}
    damaged: dict[str, str] = {}
    for kind in KINDS:
        try:
            frames[kind] = _read(folder / f"{kind}.parquet", text)
            if len(frames[kind]) and (absent := _COLUMNS[kind] - set(frames[kind])):
                raise KeyError(f"no column {', '.join(sorted(absent))}")
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            frames[kind] = pd.DataFrame(_EMPTY)
            why = f"{folder / f'{kind}.parquet'} cannot be read ({str(error)[:80]}); {MEND}"
            damaged |= {name: why for name, cell in cells.items() if cell["records"][kind]}
    return Study(study, cells, **frames, damaged=damaged)


def _whole(cell: dict[str, Any]) -> dict[str, Any]:
    """The cell. Raises KeyError where it lacks what tables are made from."""
    parts = {**cell, "meta.identity": cell["meta"].get("identity", {})}
    if absent := [f"{part}.{key}" for part, keys in _PARTS.items() for key in sorted(keys - parts[part].keys())]:
        raise KeyError(f"{cell.get('folder')} lacks {', '.join(absent)}")
    return cell


def _read(path: Path, text: bool) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(_EMPTY)
    columns = None if text else [name for name in pq.read_schema(path).names if name not in TEXT]
    return pq.read_table(path, columns=columns, page_checksum_verification=True).to_pandas()


def transcripts(study: str, num_samples: int, published: Path = PUBLISHED) -> pd.DataFrame:
    """The samples of the first problems of each of a study's cells, with their texts; none where there is no file that can be
    read (`load` says so)."""
    path = published / study / "samples.parquet"
    try:
        ids = first_problems(pq.read_table(path, columns=["cell", "sample_id"]).to_pandas(), num_samples)
        found = pq.read_table(path, filters=[("sample_id", "in", ids)]).to_pandas()
        return found if set(found) >= _COLUMNS["samples"] | set(TEXT) else pd.DataFrame()
    except (OSError, pa.ArrowInvalid):
        return pd.DataFrame()


def first_problems(samples: pd.DataFrame, number: int) -> list[str]:
    """So many problems of every cell, those that most cells hold first, so that they can be read side by side."""
    held = samples.sample_id.value_counts()
    ordered = samples.assign(held=samples.sample_id.map(held)).sort_values(["held", "sample_id"], ascending=[False, True])
    return sorted(set(ordered.groupby("cell").head(number).sample_id))


def folders(given: Iterable[Path]) -> list[Path]:
    """Run folders; a folder of runs stands for all of them that are finished. Raises NoRecords."""
    found: list[Path] = []
    for folder in given:
        is_run = (folder / "meta.json").exists()  # which may hold what resume=never set aside
        inside = [] if is_run else [p.parent for p in sorted(folder.glob("*/summary.json"))]
        if not is_run and not inside and (begun := len(list(folder.glob("*/meta.json")))):
            raise NoRecords(f"none of the {begun} runs in {folder} is finished; run the same command again, which goes on with them")
        if not is_run and not inside:
            raise NoRecords(
                f"{folder} is no run's folder and holds none; give results/runs/STUDY/CELL or results/runs/STUDY{_looked(folder)}"
            )
        found += inside or [folder]
    return list(dict.fromkeys(found))


def _looked(path: Path) -> str:
    """Where a relative path led."""
    return "" if path.is_absolute() else f" (looked at {path.absolute()}, from the current directory)"


def load_runs(given: str | Path | Iterable[str | Path]) -> Study:
    """Runs, published or not, by their own folders or a study's, which stands for all of its that are finished; one or several.

    Raises NoRecords for one without a finished run.
    """
    cells, damaged = {}, {}
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    found = folders(Path(one) for one in ([given] if isinstance(given, str | Path) else given))
    for folder in found:
        if not (folder / "summary.json").exists():
            raise NoRecords(f"{folder} holds no finished run (no summary.json); run its cell again, which goes on")
        cell = read_cell(folder)
        name = cell["meta"]["cell"]
        if name in cells:  # run twice, in two stores
            name = f"{name} {folder}"
        cells[name] = cell | {"folder": label_of(folder, found)}
        for kind in KINDS:
            try:
                rows[kind] += [row | {"cell": name} for row in rows_of(folder, kind)]
            except Damaged as error:
                damaged[name] = str(error)
    return Study("runs", cells, **{kind: pd.DataFrame(one or _EMPTY) for kind, one in rows.items()}, damaged=damaged)


def label_of(folder: Path, folders: Sequence[Path]) -> str:
    """A run's folder by its name, or by its path where another of these has the same name."""
    return folder.name if [one.name for one in folders].count(folder.name) == 1 else str(folder)
