"""Packs a study's finished runs into results/published: small, whole, and readable without this package."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.errors import Damaged, Unfinished
from avpbench.files import read_json, whole_lines

PUBLISHED = Path("results/published")
KINDS = ("samples", "latency", "fidelity")
LIMIT_BYTES = 50_000_000
MEND = "take it from version control, or remove the study's folder and publish all its runs again"
_DICTIONARY_BYTES = 1 << 28  # of a column: strategies that said the same words share them, which halves a study


def publish(study: str, runs: Path, published: Path = PUBLISHED, some: bool = False) -> Path:
    """Writes `cells.json` (meta, config, summary and number of records of every run) and a Parquet file of each kind of record.

    What is published of the study already stays, but for the cells that are among these runs: a study may be run in parts,
    on several machines. The same runs give the same bytes, in parts or at once. With `some`, unfinished runs are left out;
    without, they raise Unfinished. Raises Damaged for a torn record, and where all studies together would be larger than
    LIMIT_BYTES.
    """
    folders = sorted(p for p in (runs / study).glob("*/") if (p / "meta.json").exists())
    unfinished = [p for p in folders if not is_finished(p)]
    if unfinished and not some:
        named = ", ".join(p.name for p in unfinished[:3]) + (" ..." if len(unfinished) > 3 else "")
        raise Unfinished(f"{len(unfinished)} runs of {study} are not finished: {named}; run them again, or leave them out with --some")
    finished = [p for p in folders if p not in unfinished]
    if not finished:
        raise Unfinished(f"{runs / study} holds no finished run; run the study, or name another store with --runs")
    for folder in finished:
        _require_all(folder)
    published.mkdir(parents=True, exist_ok=True)
    out = published / study
    cells, tables = _together(out, finished)
    with tempfile.TemporaryDirectory(dir=published) as made:
        Path(made, "cells.json").write_text(json.dumps(cells, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        for kind, rows in tables.items():
            if rows:
                names = dict.fromkeys(name for row in rows for name in row)
                columns = pa.table({name: [row.get(name) for row in rows] for name in names})
                pq.write_table(
                    columns,
                    Path(made, f"{kind}.parquet"),
                    compression="zstd",
                    write_page_checksum=True,
                    compression_level=19,
                    dictionary_pagesize_limit=_DICTIONARY_BYTES,
                )
        if (size := folder_bytes(published) - folder_bytes(out)) > LIMIT_BYTES:
            raise Damaged(
                f"{published} would hold {size / 1e6:.1f} MB, at most {LIMIT_BYTES / 1e6:.0f} may be committed; "
                "remove a study from it, or run this one with a smaller limit"
            )
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)
    return out


def _together(out: Path, finished: list[Path]) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The cells of `out` and of the runs by folder, and their records of each kind; a run's take the place of published ones."""
    before, rows = _published(out)
    cells = {cell["folder"]: cell for cell in before} | {folder.name: read_cell(folder) for folder in finished}
    in_order = [cells[name] for name in sorted(cells)]
    places = {cell["meta"]["cell"]: place for place, cell in enumerate(in_order)}
    fresh = {cells[folder.name]["meta"]["cell"] for folder in finished}
    tables = {}
    for kind in KINDS:
        kept = [row for row in rows[kind] if row["cell"] not in fresh]
        kept += [row for folder in finished for row in rows_of(folder, kind)]
        tables[kind] = sorted(kept, key=lambda row: places[row["cell"]])
    counts = {kind: Counter(row["cell"] for row in found) for kind, found in tables.items()}
    return [cell | {"records": {kind: counts[kind][cell["meta"]["cell"]] for kind in KINDS}} for cell in in_order], tables


def _published(out: Path) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The cells that are there, and their records of each kind. Raises Damaged where they cannot be read."""
    try:
        cells = json.loads((out / "cells.json").read_text(encoding="utf-8")) if (out / "cells.json").exists() else []
        paths = {kind: out / f"{kind}.parquet" for kind in KINDS}
        return cells, {kind: pq.read_table(path).to_pylist() if path.exists() else [] for kind, path in paths.items()}
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise Damaged(f"{out} cannot be read ({str(error)[:80]}); {MEND}") from error


def _require_all(folder: Path) -> None:
    """Raises Damaged where the summary, whose numbers a cell's page shows, is of fewer samples than are there."""
    told, there = read_json(folder / "summary.json")["num_samples"], len(whole_lines(folder / "samples.jsonl")[0])
    if told < there:
        raise Damaged(
            f"{folder} has {there} samples, and its summary is of {told}: a later visit had a smaller limit; run its cell again with "
            f"limit={there}, which runs nothing and sums up all"
        )


def is_finished(folder: Path) -> bool:
    """Whether the run's last session came to its end: until then a summary may be an earlier session's."""
    return (folder / "summary.json").exists() and bool(read_json(folder / "meta.json").get("spent"))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below it."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def read_cell(folder: Path) -> dict[str, Any]:
    """A run's meta and summary. Raises RecordsError or Damaged where they are not there or cannot be read."""
    meta, summary = read_json(folder / "meta.json"), read_json(folder / "summary.json")
    if not meta.get("config") or not summary:
        raise Damaged(f"{folder} holds no finished run: its meta.json or summary.json is missing or empty; run its cell again")
    store = meta["config"].get("results") or ""
    if Path(store).is_absolute():  # where one machine kept its runs says nothing of them
        meta = json.loads(json.dumps(meta).replace(json.dumps(store)[1:-1], "results/runs"))
    return {"folder": folder.name, "meta": meta, "summary": summary}


def rows_of(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The records of one kind with their cell's hash, in the order of ids and blocks; nested parts as JSON, and counted.

    Raises Damaged for a line that is not whole.
    """
    path = folder / f"{kind}.jsonl"
    if not path.exists():
        return
    about = read_json(folder / "meta.json")
    rows, lines = [], path.read_bytes().split(b"\n")  # words may hold what str.splitlines takes for line ends
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise Damaged(
                f"{path}:{number} is torn: {line[:40].decode(errors='replace')!r}...; run the cell again, which mends it"
            ) from error
    for row in sorted(rows, key=lambda r: (r.get("sample_id"), r.get("block"), r.get("order"), r.get("clock"))):
        nested = {key: json.dumps(value, ensure_ascii=False) for key, value in row.items() if isinstance(value, (dict, list))}
        yield {"cell": about["cell"]} | row | (_counts(row) if kind == "samples" else {}) | nested


def _counts(row: dict[str, Any]) -> dict[str, float | int | str | None]:
    """Tokens over all turns, bytes over all hops and what these handed over, so that a table need not open the nested parts.

    None where the problem failed before a turn was taken. `pairs` is how many (new token, earlier token) pairs attention met;
    `mean_bits` is 8 x bytes / values of what carried K/V.
    """
    turns, hops = row["turns"], row["hops"]
    new = [t["prefilled_tokens"] + t["generated_tokens"] + t["latent_steps"] for t in turns]
    carried = [(h["wire_bytes"], h["num_values"]) for h in hops if h["num_values"] and h["wire_bytes"]]
    return {
        "prefilled_tokens": sum(t["prefilled_tokens"] for t in turns) if turns else None,
        "first_prefilled_tokens": turns[0]["prefilled_tokens"] if turns else None,
        "last_prefilled_tokens": turns[-1]["prefilled_tokens"] if turns else None,
        "cached_tokens": turns[-1]["cached_tokens"] if turns else None,
        "generated_tokens": sum(t["generated_tokens"] for t in turns) if turns else None,
        "latent_steps": sum(t["latent_steps"] for t in turns) if turns else None,
        "forward_tokens": sum(new) if turns else None,
        "pairs": sum(count * (t["cached_tokens"] + count / 2) for count, t in zip(new, turns, strict=True)) if turns else None,
        "wire_bytes": sum(h["wire_bytes"] for h in hops) if hops else None,
        "hop_bytes": sum(h["wire_bytes"] for h in hops) / len(hops) if hops else None,
        "held_bytes": _held_bytes(turns[:-1], hops[-1]) if hops else None,
        "cache_bytes": sum(h["cache_bytes"] for h in hops) if hops else None,
        "mean_bits": 8 * sum(b for b, _ in carried) / sum(v for _, v in carried) if carried else None,
        "peak_cache_bytes": max(t["kv_bytes"] for t in turns) if turns else None,
        "handed": " ".join(sorted({h["strategy"] for h in hops})) if hops else None,
    }


def _held_bytes(turns: list[dict[str, Any]], hop: dict[str, Any]) -> int:
    """What lies between the last two agents: the sender's K/V where the hop carries K/V, else the words said until then."""
    return turns[-1]["kv_bytes"] if hop["num_values"] else sum(len(t["said"].encode()) for t in turns)
