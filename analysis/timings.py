"""Times of every entrant of the same blocks, at several lengths: both clocks, speed-ups over re-prefill, and the device's limit."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import paying, timing
from analysis.cells import Cell, in_place, usual_place
from analysis.declared import TableSpec, Where, combinations
from analysis.errors import NotMeasured, Refused
from analysis.estimates import Point, number
from analysis.metrics import METRICS
from analysis.tables import Entry, Table, empty_tables, note_organism, note_versions, points
from avpbench.breakeven import BreakEven
from avpbench.report import rate_text, regime_text
from avpbench.summary import REFERENCE

_COLUMNS = {  # header: metric
    "prefix held": "prefix_tokens", "TTFT host": "ttft_host_s", "eta": "ttft_host_eta", "speed-up": "ttft_host_speedup",
    "TTFT device": "ttft_device_s", "eta (device)": "ttft_device_eta", "speed-up (device)": "ttft_device_speedup",
    "hand-off": "handoff_s", "speed-up (hand-off)": "handoff_speedup",
}  # fmt: skip
APART = 1.2  # between two cells' copy rates, above which their etas are not to be compared


def tables(spec: TableSpec, cells: Sequence[Cell], where: Where, run: str) -> list[Table]:
    """A table for every combination of `each`; a row for every combination of `across` and row of the spec."""
    found = []
    for table, own in empty_tables(spec, where):
        for place in combinations(spec.across):
            _fill(table, spec, cells, own, place, run)
        if table.rows:
            table.header[:] = [*spec.across, "strategy", "blocks", *_COLUMNS, "break-even", "F of re-prefill"]
            table.note("blocks: how many, in how many process restarts")
            table.note("prefix held: the receiver's tokens before the new ones; words may be cut into others than were said")
            table.note(f"speed-up: over re-prefill in the same blocks; eta: the device's limit / measured; {timing.setting(_cells(table))}")
            table.note("break-even: the bandwidth from which (>) or up to which (<) the whole hand-off beats re-prefill at that F")
            _note_sources(table)
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
            table.rows.append([*fixed, Entry(given), _blocks(found[label]), *times, *_break_even(table, found[label])])


def _blocks(point: Point) -> Entry:
    """How many whole blocks it was timed in, in how many processes."""
    try:
        processes = timing.groups(timing.blocks(point, "handoff", (point.entrant,))[point.entrant])
    except Refused:  # the times beside it say why
        return Entry("-")
    return Entry(f"{sum(map(len, processes))} in {len(processes)}", point.first)


def _cells(table: Table) -> list[Cell]:
    return list(dict.fromkeys(cell for row in table.rows for entry in row for cell in entry.sources))


def _note_sources(table: Table) -> None:
    """What of the cells differs and is no reason to refuse them: versions of the source, and the rates that etas rest on."""
    cells = _cells(table)
    note_organism(table, cells)
    note_versions(table, cells)
    rates = [cell.meta["roofline"]["copy_bytes_per_s"] for cell in cells if cell.meta["roofline"]]
    if rates and max(rates) > APART * min(rates):
        told = f"{min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f} GB/s"
        table.note(f"eta rests on the copy rate that its cell's processes measured, here {told}: compare it within a cell", *cells)


def _break_even(table: Table, point: Point) -> tuple[Entry, Entry]:
    """The bandwidth at which it is as fast as re-prefill, with its interval, and what re-prefill reached."""
    try:
        if point.entrant == REFERENCE:
            return Entry("-"), Entry(f"{paying.achieved_flop_per_s(point) / 1e9:.0f} GFLOP/s", point.first)
        return Entry(_spoken(paying.break_even(point)), point.first), Entry("-")
    except NotMeasured:
        pass  # a dash, without a word
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
    """With its interval, open where no bound is finite; one block has none."""
    text = regime_text(found)
    if found.break_even_bps is None or found.break_even_low_bps == found.break_even_high_bps:
        return text
    low, high = ("-" if bound is None else rate_text(bound) for bound in (found.break_even_low_bps, found.break_even_high_bps))
    return f"{text} [{low}, {high}]"


def entrants(cell: Cell) -> list[Table]:
    """Everything that was timed in the cell's blocks, by every clock, with its stages; none where nothing was, or may be used."""
    if cell.latency.empty or cell.problem:
        return []
    names = [name for name in METRICS if name.startswith(("prefix_tokens", "ttft", "handoff"))]
    table = Table("entrants", "Timed in the same blocks", ["strategy", *names])
    for entrant in sorted(set(cell.latency.strategy)):
        point = Point(entrant, (cell,), entrant)
        table.rows.append([Entry(entrant), *(table.number(name, point) for name in names)])
        try:
            spent, residual = timing.stages(point)
            parts = ", ".join(f"{name} {number(seconds, 's')}" for name, seconds in spent.items())
            table.note(f"stages of {entrant}: {parts}; unexplained: {residual:+.1%}")
        except Refused as error:
            table.refuse(f"stages of {entrant}", error)
    return [table]
