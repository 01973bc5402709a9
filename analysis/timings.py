"""Times of every entrant of the same blocks, at several lengths: both clocks, speed-ups over re-prefill, and the device's limit."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import timing
from analysis.cells import Cell, in_place, usual_place
from analysis.declared import TableSpec, Where, combinations
from analysis.errors import NotMeasured, Refused
from analysis.estimates import Point
from analysis.tables import Entry, Table, empty_tables, points
from avpbench.breakeven import BreakEven
from avpbench.report import rate_text, regime_text
from avpbench.summary import REFERENCE

_COLUMNS = {  # header: metric
    "prefix held": "prefix_tokens", "TTFT host": "ttft_host_s", "eta": "ttft_host_eta", "speed-up": "ttft_host_speedup",
    "TTFT device": "ttft_device_s", "eta (device)": "ttft_device_eta", "speed-up (device)": "ttft_device_speedup",
    "hand-off": "handoff_s", "speed-up (hand-off)": "handoff_speedup",
}  # fmt: skip


def tables(spec: TableSpec, cells: Sequence[Cell], where: Where, run: str) -> list[Table]:
    """A table for every combination of `each`; a row for every combination of `across` and row of the spec."""
    found = []
    for table, own in empty_tables(spec, where):
        for place in combinations(spec.across):
            _fill(table, spec, cells, own, place, run)
        if table.rows:
            table.header[:] = [*spec.across, "strategy", *_COLUMNS, "break-even", "F of re-prefill"]
            table.note("prefix held: the receiver's tokens before the new ones; words may be cut into others than were said")
            table.note("speed-up: over re-prefill in the same blocks; eta: the device's limit / measured; batch 1, last hop")
            table.note("break-even: the bandwidth from which (>) or up to which (<) the whole hand-off beats re-prefill at that F")
        found.append(table)
    return found


def _fill(table: Table, spec: TableSpec, cells: Sequence[Cell], where: Where, place: Where, run: str) -> None:
    at = ", ".join(f"{key}={value}" for key, value in place.items())
    rows = {f"{label} at {at}" if at else label: own for label, own in spec.rows.items()}
    found = points(table, cells, rows, where | place, run)
    for label, given in zip(rows, spec.rows, strict=True):
        if label in found and _same_place(table, found[label], cells):
            fixed = [Entry(str(value)) for value in place.values()]
            times = [table.number(name, found[label]) for name in _COLUMNS.values()]
            table.rows.append([*fixed, Entry(given), *times, *_break_even(table, found[label])])


def _break_even(table: Table, point: Point) -> tuple[Entry, Entry]:
    """The bandwidth at which it is as fast as re-prefill, with its interval, and what re-prefill reached."""
    try:
        if point.entrant == REFERENCE:
            return Entry("-"), Entry(f"{timing.achieved_flop_per_s(point) / 1e9:.0f} GFLOP/s", point.first)
        return Entry(_spoken(timing.break_even(point)), point.first), Entry("-")
    except NotMeasured:
        pass
    except Refused as error:
        table.refuse(point.label, error, "break-even")
    return Entry("-"), Entry("-")


def _same_place(table: Table, point: Point, cells: Sequence[Cell]) -> bool:
    """Whether the row may stand beside the others: times of another device or dtype than most may not."""
    try:
        in_place(point.cells, usual_place(cells, timed=True), timed=True)
    except Refused as error:
        table.refuse(point.label, error)
        return False
    return True


def _spoken(found: BreakEven) -> str:
    """With its interval, open where no bound is finite."""
    text = regime_text(found)
    if found.break_even_bps is None:
        return text
    low, high = ("-" if bound is None else rate_text(bound) for bound in (found.break_even_low_bps, found.break_even_high_bps))
    return f"{text} [{low}, {high}]"
