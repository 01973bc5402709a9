"""python -m avpbench plan -m KEY=A,B ... [--json] [--probe]: what a grid would do, before it does it. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from avpbench.composer import Composer
from avpbench.config import compose, composing, largest_batch
from avpbench.errors import ConfigError
from avpbench.estimate import Kind
from avpbench.grid import Grid, grid
from avpbench.hints import check, own_folders, search_path, without_folders
from avpbench.planning import Outlook, Row, outlook
from avpbench.progress import console, say
from avpbench.report import bytes_text, table, time_text
from avpbench.sweep import impossible_lines, summary_line

_FLAGS = ("-m", "--multirun", "--json", "--probe")
_SHOWN = 40


def main(words: Sequence[str]) -> int:
    """Prints the plan. Raises ConfigError where no cell can run or `max_hours` is exceeded."""
    check([*words, "-m"])
    own = own_folders(words)
    rest = [word for word in without_folders(words) if word not in _FLAGS]
    if unknown := [word for word in rest if word.startswith("-")]:
        raise ConfigError(f"plan takes {', '.join(_FLAGS[2:])} and overrides, got {' '.join(unknown)}")
    always = search_path(own)
    with composing():
        composer = Composer(always, own)
        found = grid(_overrides(rest, always), composer)
        plan = outlook(found, composer)
        if "--probe" in words and plan.num_unknown:
            with redirect_stdout(sys.stderr):
                _probe(found, plan, always)
            plan = outlook(found, composer)
    if "--json" in words:
        print(json.dumps(_as_json(plan)))  # in one line: ten thousand cells indented take a second
    else:
        _show(plan, found)
    plan.check()
    if not found.cells:
        raise ConfigError(f"no cell of this grid can run: {found.impossible[0].why}")
    return 0


def _overrides(words: Sequence[str], always: Sequence[str]) -> list[Override]:
    """Every override, the study's own sweep first: what is typed replaces it."""
    parse = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides
    named = [word for word in words if word.startswith("experiment=")]
    params: dict[str, Any] = dict(compose([*always, *named], with_hydra=True).hydra.sweeper.params or {}) if named else {}
    task = [word for word in words if not word.startswith(("hydra.", "hydra/"))]
    overrides: list[Override] = parse([*(f"{key}={value}" for key, value in params.items()), *task])
    return overrides


def _probe(found: Grid, plan: Outlook, always: Sequence[str]) -> None:
    """Runs the first block of one cell of each kind that nothing is known of; its records are the cell's own and are kept."""
    from avpbench import run

    unknown = {row.folder for row in plan.rows if row.seconds is None and row.state in ("partial", "to do")}
    kinds = {Kind.of(cell.values): cell for cell in reversed(found.cells) if str(cell.folder) in unknown}
    for cell in kinds.values():
        say(f"probe: {cell.given or cell.identity.folder}")
        words = [word for word in cell.words if not word.startswith(("limit=", "latency.repeats="))]
        run(*always, *words, f"limit={largest_batch(cell.values)}", "latency.repeats=1")


def _as_json(plan: Outlook) -> dict[str, Any]:
    names = [field.name for field in fields(Row)]
    rows = [{name: getattr(row, name) for name in names} for row in plan.rows]
    return {"cells": rows, "counts": plan.counts(), **{f.name: getattr(plan, f.name) for f in fields(plan) if f.name != "rows"}}


def _show(plan: Outlook, found: Grid) -> None:
    possible = [row for row in plan.rows if row.state != "impossible"]
    shown = [row for row in possible if row.state != "done"] if len(possible) > _SHOWN else possible
    header = ("cell", "state", "samples left", "blocks left", "memory", "time")
    if shown:
        console.print(table("plan", header, [_cells(row) for row in shown[:_SHOWN]]))
    if len(shown) > _SHOWN or len(shown) < len(possible):
        say(f"... {len(possible) - min(len(shown), _SHOWN)} more cells; --json names them all")
    for line in impossible_lines((row.given, row.why) for row in plan.rows if row.why):
        say(line)
    say(summary_line(found))
    counts = ", ".join(f"{number} {state}" for state, number in plan.counts().items() if number)
    left = [row.samples_left for row in possible]
    samples = f"{sum(n or 0 for n in left)}{' and those of cells of unknown size' if None in left else ''}"
    unknown = f"{plan.num_unknown} cells of unknown time (--probe runs a block of each kind)" if plan.num_unknown else ""
    known = time_text(plan.seconds) if plan.seconds or not unknown else ""
    say(f"{counts}; {samples} samples left; {', '.join(part for part in (known, unknown) if part)}")
    say("memory: weights and the K/V of a batch at its longest; time: from past runs of the same models on this kind of device")


def _cells(row: Row) -> list[str]:
    left = ["?" if n is None else str(n) for n in (row.samples_left, row.blocks_left)]
    return [row.given or "the only one", row.state, *left, bytes_text(row.memory_bytes), time_text(row.seconds)]
