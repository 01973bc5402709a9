"""Packs a study's finished runs into results/published: small, whole, and readable without this package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PUBLISHED = Path("results/published")
_FILES = ("samples", "latency", "fidelity")


class Unfinished(ValueError):
    """A study with runs that are not finished, or none at all."""


def publish(study: str, runs: Path, published: Path = PUBLISHED, some: bool = False) -> Path:
    """Writes `cells.json` (meta, config and summary of every run) and a Parquet file of each kind of record.

    The same runs give the same bytes. With `some`, unfinished runs are left out; without, they raise Unfinished.
    """
    folders = sorted(p for p in (runs / study).glob("*/") if (p / "meta.json").exists())
    unfinished = [p for p in folders if not (p / "summary.json").exists()]
    if unfinished and not some:
        raise Unfinished(
            f"{len(unfinished)} runs of {study} are not finished: {', '.join(p.name for p in unfinished[:3])} ...; run them again"
        )
    finished = [p for p in folders if p not in unfinished]
    if not finished:
        raise Unfinished(f"{runs / study} holds no finished run")
    out = published / study
    out.mkdir(parents=True, exist_ok=True)
    cells = [_cell(folder) for folder in finished]
    (out / "cells.json").write_text(json.dumps(cells, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    for kind in _FILES:
        rows = [row for folder in finished for row in rows_of(folder, kind)]
        path = out / f"{kind}.parquet"
        if rows:
            pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", compression_level=19)
        else:
            path.unlink(missing_ok=True)
    return out


def _cell(folder: Path) -> dict[str, Any]:
    meta, summary = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("meta.json", "summary.json"))
    return {"folder": folder.name, "meta": meta, "summary": summary}


def rows_of(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The records of one kind with their cell's hash, in the order of ids and blocks; nested parts as JSON."""
    path = folder / f"{kind}.jsonl"
    if not path.exists():
        return
    cell = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["cell"]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in sorted(rows, key=lambda r: (r.get("sample_id"), r.get("block"), r.get("order"), r.get("clock"))):
        nested = {key: json.dumps(value, ensure_ascii=False) for key, value in row.items() if isinstance(value, (dict, list))}
        yield {"cell": cell} | row | nested
