"""T2: strategies side by side on the same problems, with the setting's sensitivity, the floor and what could have been seen."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import quality
from analysis.cells import MIXTURE, UNTRAINED, Cell, Place, in_place, usual_place
from analysis.declared import TableSpec, Where
from analysis.errors import NotMeasured, Refused
from analysis.estimates import Point, number, spoken
from analysis.tables import Entry, Table, count_of, empty_tables, note_organism, note_versions, points

SENSITIVE, INSENSITIVE = 0.20, 0.05
_FAILURES = {"num_errors": "failed, and counted as wrong", "num_fallbacks": "handed over as text after all, and analysed as assigned"}
_COLUMNS = {  # header: metric
    "KL": "kl", "tokens": "forward_tokens", "tokens saved": "s_forward", "end to end": "end_to_end_s", "TTFT host": "ttft_host_s",
    "speed-up": "ttft_host_speedup", "eta": "ttft_host_eta", "hand-off": "handoff_s", "wire": "wire_bytes", "true bits": "mean_bits",
    "K/V": "peak_cache_bytes",
}  # fmt: skip
_TIMES = {
    "end_to_end_s",
    "ttft_host_s",
    "ttft_host_speedup",
    "ttft_host_eta",
    "handoff_s",
}  # which stand beside others of the same device and dtype alone


def tables(spec: TableSpec, cells: Sequence[Cell], where: Where, run: str) -> list[Table]:
    """A table for every combination of `each`."""
    found = []
    for table, own in empty_tables(spec, where):
        fill(table, points(table, cells, spec.rows, own, run))
        found.append(table)
    return found


def fill(table: Table, rows: dict[str, Point], reference: str = "raw") -> None:
    """Header, rows and notes; accuracy is compared with the row `reference`."""
    if not rows:
        return
    raw, text = rows.get(reference), rows.get("text")
    table.header[:] = ["strategy", "n", "accuracy", f"against {reference} (points)", "flipped", "p", "MDD (points)", *_COLUMNS]
    cells = [cell for point in rows.values() for cell in point.cells]
    place = usual_place(cells, timed=True)
    for label, point in rows.items():
        facts = point.first.facts
        row = [
            Entry(f"{label} \u2020" if point.first.untrained else label),
            count_of(point, "num_samples" if facts["num_samples"] else "num_scored"),
            table.number("accuracy", point),
        ]
        row += _against(table, point, raw)
        row += [_number(table, name, point, text, place) for name in _COLUMNS.values()]
        table.rows.append(row)
    _sensitivity(table, rows)
    if "reprefill" in rows:
        _floor(table, rows["reprefill"])
    for key, what in _FAILURES.items():
        if counts := [f"{cell.facts[key]} of {cell.facts['folder']}" for cell in cells if cell.facts.get(key)]:
            table.note(f"{what}: {', '.join(counts)}", *(cell for cell in cells if cell.facts.get(key)))
    if any(cell.facts.get("controller") == "uniform" and isinstance(cell.facts["budget_bits"], (int, float)) for cell in cells):
        table.note(MIXTURE)
    if any(cell.untrained for cell in cells):
        table.note(UNTRAINED)
    note_organism(table, cells)
    note_versions(table, cells)
    if any(cell.facts.get("load") == "dummy" for cell in cells):
        table.note("random weights: accuracy and KL mean nothing, and are left out")
    table.note("tokens: through a forward pass, a problem; tokens saved: s_forward against the row `text`")
    table.note(
        "flipped: problems that turned from right to wrong or the reverse; MDD: the least difference that would have shown (80% power)"
    )


def _number(table: Table, name: str, point: Point, text: Point | None, place: Place) -> Entry:
    if name == "s_forward":
        return Entry("-") if text is None or text is point else table.number(name, point, text)
    found = table.number(name, point)
    if name not in _TIMES or found.text == "-":
        return found
    try:
        in_place(point.cells, place, timed=True)
    except Refused as error:
        table.refuse(f"times of {point.label}", error)
        return Entry("-")
    return found


def _against(table: Table, point: Point, raw: Point | None) -> list[Entry]:
    if raw is None or raw is point:
        return [Entry("-")] * 4
    try:
        found = quality.contrast(point, raw, "accuracy")
    except NotMeasured:
        return [Entry("-")] * 4
    except Refused as error:
        table.refuse(f"{point.label} against {raw.label}", error)
        return [Entry("-")] * 4
    assert found.flipped is not None
    texts = [spoken(found.effect, "points"), f"{found.flipped:.1%}", f"{found.p:.2g}", number(found.detectable, "points")[1:]]
    return [Entry(text, point.first, found.effect.cells[1:]) for text in texts]


def _sensitivity(table: Table, rows: dict[str, Point]) -> None:
    """Whether the setting needs the cache at all: raw against the better of blank and somebody else's parcel."""
    needed = [rows.get(name) for name in ("raw", "blank", "shuffled")]
    if any(point is None for point in needed):
        table.note("sensitivity: not run (it needs the rows raw, blank and shuffled: raw with donor=other)")
        return
    raw, blank, shuffled = (point for point in needed if point is not None)
    try:
        best = max((blank, shuffled), key=lambda p: quality.average(p, "accuracy", interval=False).value)
        effect = quality.contrast(raw, best, "accuracy").effect
    except Refused as error:
        table.refuse("sensitivity", error)
        return
    assert effect.low is not None
    assert effect.high is not None
    label = "sensitive" if effect.low >= SENSITIVE else "insensitive" if effect.high < INSENSITIVE else "undetermined"
    table.note(f"sensitivity: {label}; raw is {spoken(effect, 'points')} points above {best.label}", *effect.cells)


def _floor(table: Table, reprefill: Point) -> None:
    try:
        found = quality.floor(reprefill)
    except NotMeasured:
        table.note("floor: not measured (it needs the fidelity of re-prefill)")
        return
    except Refused as error:
        table.refuse("floor", error)
        return
    kl = quality.average(reprefill, "kl", interval=False)
    table.note(
        f"floor: re-prefill in raw's place, the same tokens in other chunks, moves log p by {found.value:.2g} nats a token"
        f" (97.5% of problems) and has a KL of {kl.value:.2g}",
        *reprefill.cells,
    )
