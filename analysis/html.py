"""One self-contained page: sortable tables, the figures, and transcripts side by side, hop by hop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cells import Cell, cells_of, nested
from analysis.declared import EXPERIMENTS
from analysis.errors import Refused
from analysis.evidence import gather
from analysis.figures import Drawn
from analysis.publish import PUBLISHED
from analysis.runs import compare
from analysis.studies import first_problems, load_runs, transcripts
from analysis.tables import Table

_PAGE = Path(__file__).parent / "page"
PROBLEMS = 10  # of each cell, with their transcripts
_TURN = ("role", "said", "cached_tokens", "prefilled_tokens", "generated_tokens", "latent_steps")


def write(runs: Sequence[Path], out: Path, published: Path = PUBLISHED, experiments: Path = EXPERIMENTS) -> Path:
    """Writes the page of these runs, or of everything published where there are none; returns its path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_of_runs(runs) if runs else _of_published(published, experiments), encoding="utf-8")
    return out


def _of_published(published: Path, experiments: Path) -> str:
    evidence = gather(published, experiments)
    unread = Table("problems", "What could not be read", [])
    for problem in evidence.problems:
        unread.note(problem)
    tables = [*([unread] if evidence.problems else []), *evidence.tables]
    texts = {name: transcripts(name, PROBLEMS, published) for name in dict.fromkeys(cell.study for cell in evidence.cells)}
    return page(tables, [figure for chapter in evidence.chapters for figure in chapter.figures], evidence.cells, texts)


def _of_runs(runs: Sequence[Path]) -> str:
    study = load_runs(runs)
    samples = study.samples
    ids = first_problems(samples, PROBLEMS) if len(samples) else []
    texts = {study.name: samples[samples.sample_id.isin(ids)] if ids else samples}
    return page([compare(runs)], [], cells_of(study), texts)


def page(tables: Sequence[Table], figures: Sequence[Drawn], cells: Sequence[Cell], texts: dict[str, pd.DataFrame]) -> str:
    """The page as text; `texts` are samples with their transcripts, by study."""
    data = {
        "tables": [_table(table) for table in tables],
        "figures": [_figure(figure) for figure in figures],
        "cells": {_key(cell): _cell(cell) for cell in cells},
        "samples": {study: _samples(study, frame) for study, frame in texts.items()},
    }
    parts = {"STYLE": "page.css", "SCRIPT": "page.js"}
    made = (_PAGE / "page.html").read_text(encoding="utf-8")
    for name, file in parts.items():
        made = made.replace(f"/*{name}*/", (_PAGE / file).read_text(encoding="utf-8"))
    return made.replace("/*DATA*/", json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))


def _table(table: Table) -> dict[str, Any]:
    rows = [[[[one.text, [_key(cell) for cell in one.sources]] for one in entry.parts or (entry,)] for entry in row] for row in table.rows]
    return {"name": table.name, "title": table.title, "header": table.header, "rows": rows, "notes": table.told()}


def _key(cell: Cell) -> str:
    """One cell may be in two studies, with records of its own in each."""
    return f"{cell.study}/{cell.hash}"


def _figure(figure: Drawn) -> dict[str, Any]:
    text = figure.files[f"{figure.name}.svg"].decode() if figure.files else ""
    return {"name": figure.name, "svg": text[max(text.find("<svg"), 0) :], "caption": figure.caption, "gaps": figure.gaps}


def _cell(cell: Cell) -> dict[str, Any]:
    keys = ("label", "folder", "chain", "question", "variant", "model", "receiver", "level", "context", "budget_bits")
    donor = cell.facts.get("donor")
    label = cell.label if donor in (None, "self") else f"{cell.label}, donor={donor}"
    return {"study": cell.study} | {key: cell.facts.get(key) for key in keys} | {"label": label}


def _samples(study: str, frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in _records(frame):
        turns = _turns(row)
        prediction = row["prediction"] if isinstance(row["prediction"], str) else None
        sample = {"gold": row["gold"], "prediction": prediction, "correct": bool(row["correct"]), "turns": turns}
        found.setdefault(str(row["sample_id"]), {})[f"{study}/{row['cell']}"] = sample
    return found


def _turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """What each agent said, or why that cannot be read."""
    try:
        return [{key: turn[key] for key in _TURN} for turn in nested(row["turns"], row["sample_id"])]
    except Refused as error:
        return [dict.fromkeys(_TURN, 0) | {"role": "", "said": str(error)}]


def _records(frame: pd.DataFrame) -> Iterable[dict[str, Any]]:
    return frame.sort_values(["sample_id", "cell"]).to_dict("records") if len(frame) else []
