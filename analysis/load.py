"""Records as data frames, from published studies or from runs' own folders; the same columns either way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd

from analysis.publish import PUBLISHED, rows_of

_KINDS = ("samples", "latency", "fidelity")


@final
@dataclass(frozen=True, slots=True)
class Study:
    """Cells by hash (their meta and summary), and frames of records with a column `cell`; empty where there are none."""

    name: str
    cells: dict[str, dict[str, Any]]
    samples: pd.DataFrame
    latency: pd.DataFrame
    fidelity: pd.DataFrame

    def config(self, cell: str) -> dict[str, Any]:
        """The resolved config of a cell."""
        config: dict[str, Any] = self.cells[cell]["meta"]["config"]
        return config


def load(study: str, published: Path = PUBLISHED) -> Study:
    """A published study."""
    folder = published / study
    if not (folder / "cells.json").exists():
        known = sorted(p.name for p in published.glob("*/"))
        raise FileNotFoundError(f"no study {study!r} in {published}; there are {', '.join(known) or 'none'}")
    cells = {c["meta"]["cell"]: c for c in json.loads((folder / "cells.json").read_text(encoding="utf-8"))}
    frames = {k: pd.read_parquet(p) if (p := folder / f"{k}.parquet").exists() else pd.DataFrame() for k in _KINDS}
    return Study(study, cells, **frames)


def load_runs(folders: Sequence[Path]) -> Study:
    """Runs' own folders, published or not."""
    cells = {}
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for folder in folders:
        if not (folder / "summary.json").exists():
            raise FileNotFoundError(f"{folder} holds no finished run (no summary.json)")
        meta, summary = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("meta.json", "summary.json"))
        cells[meta["cell"]] = {"folder": folder.name, "meta": meta, "summary": summary}
        for kind in _KINDS:
            rows[kind] += rows_of(folder, kind)
    return Study("runs", cells, **{kind: pd.DataFrame(found) for kind, found in rows.items()})
