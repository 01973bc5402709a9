"""Times of every entrant of the same blocks, at several lengths: both clocks, speed-ups over re-prefill, and the device's limit."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.cells import Cell, in_place, usual_place
from analysis.declared import TableSpec, Where, combinations
from analysis.errors import Refused
from analysis.estimates import Point
from analysis.tables import Entry, Table, empty_tables, points

_COLUMNS = {  # header: metric
    "TTFT host": "ttft_host_s", "eta": "ttft_host_eta", "speed-up": "ttft_host_speedup", "TTFT device": "ttft_device_s",
    "eta (device)": "ttft_device_eta", "speed-up (device)": "ttft_device_speedup", "hand-off": "handoff_s",
    "speed-up (hand-off)": "handoff_speedup",
}  # fmt: skip


def tables(spec: TableSpec, cells: Sequence[Cell], where: Where, run: str) -> list[Table]:
    """A table for every combination of `each`; a row for every combination of `across` and row of the spec."""
    found = []
    for table, own in empty_tables(spec, where):
        for place in combinations(spec.across):
            _fill(table, spec, cells, own, place, run)
        if table.rows:
            table.header[:] = [*spec.across, "strategy", *_COLUMNS]
            table.note("speed-up: over re-prefill in the same blocks; eta: the device's limit / measured; batch 1, last hop")
        found.append(table)
    return found


def _fill(table: Table, spec: TableSpec, cells: Sequence[Cell], where: Where, place: Where, run: str) -> None:
    at = ", ".join(f"{key}={value}" for key, value in place.items())
    rows = {f"{label} at {at}" if at else label: own for label, own in spec.rows.items()}
    found = points(table, cells, rows, where | place, run)
    for label, given in zip(rows, spec.rows, strict=True):
        if label in found and _same_place(table, found[label], cells):
            fixed = [Entry(str(value)) for value in place.values()]
            table.rows.append([*fixed, Entry(given), *(table.number(name, found[label]) for name in _COLUMNS.values())])


def _same_place(table: Table, point: Point, cells: Sequence[Cell]) -> bool:
    """Whether the row may stand beside the others: times of another device or dtype than most may not."""
    try:
        in_place(point.cells, usual_place(cells))
    except Refused as error:
        table.note(f"{point.label}: refused: {error}")
        return False
    return True
