"""From which bandwidth on a hand-off pays, and what re-prefill reached, of published blocks (the arithmetic: avpbench/breakeven.py)."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import numpy as np

from analysis import timing
from analysis.cells import Cell, nested
from analysis.errors import Refused
from analysis.estimates import Point
from avpbench import breakeven
from avpbench.breakeven import BreakEven, measure
from avpbench.limits import Work
from avpbench.records import LatencyRecord
from avpbench.summary import REFERENCE


@cache
def _records(cell: Cell) -> list[LatencyRecord]:
    """The cell's timed repeats as a run holds them."""
    frame = cell.latency.astype(object).where(lambda f: f.notna(), None)
    kept = [field.name for field in fields(LatencyRecord)]
    rows = [LatencyRecord.from_json({name: row[name] for name in kept}) for row in frame.to_dict("records")]
    folder = cell.facts["folder"]
    return [replace(row, stages_s=nested(row.stages_s, folder) if isinstance(row.stages_s, str) else row.stages_s) for row in rows]


def break_even(point: Point) -> BreakEven:
    """The bandwidth at which the hand-off and re-prefill take equally long, as a run's own summary has it.

    Raises Refused where the two share no whole block, A/A was not measured, or neither is shown to be ahead through memory.
    """
    found = timing.blocks(point, "handoff", (point.entrant, REFERENCE))
    cell = point.first
    if not timing.leads(np.log(found[REFERENCE] / found[point.entrant]), floor := max(map(abs, timing.self_ratio(point, "handoff")))):
        folder = cell.facts["folder"]
        raise Refused(f"{folder}: neither it nor re-prefill is ahead through memory by more than A/A's {floor:.3f}: no break-even is told")
    return measure(_records(cell), point.entrant, REFERENCE, cell.facts.get("bandwidth") is not None, None)


def achieved_flop_per_s(point: Point) -> float:
    """What re-prefill's pass reached, F. Raises Refused where it was not timed."""
    timing.blocks(point, "device", (REFERENCE,))
    cell = point.first
    work = cell.meta["roofline"]
    if not work:
        raise Refused(f"{cell.facts['folder']} has no count of operations")
    return breakeven.achieved_flop_per_s(_records(cell), REFERENCE, Work(**{name: work[name] for name in Work.__slots__}))
