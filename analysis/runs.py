"""Unpublished runs: one in numbers, or several against one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis import strategies
from analysis.bits import fair_contrast
from analysis.cells import Cell, cells_of, dotted
from analysis.errors import NoRecords, Refused
from analysis.estimates import Point, number, spoken
from analysis.metrics import METRICS
from analysis.studies import folders, label_of, load_runs
from analysis.tables import Entry, Table
from analysis.timings import entrants

_APART = ("study", "results", "limit", "tracker", "tags", "hydra")  # what a setting is named without


def compare(given: Sequence[Path]) -> Table:
    """The runs side by side, accuracy and KL of each by problem against the first given; of one folder's, against raw, else `uniform`."""
    points = _points(given)
    named = _usual(points) if given and folders(given) != list(given) else None
    reference = named or next(iter(points))
    table = Table("compare", f"Runs, each against {reference}", [])
    begun = [path.parent for folder in given for path in sorted(folder.glob("*/meta.json")) if not (path.parent / "summary.json").exists()]
    if begun:
        table.note(f"left out, not finished: {', '.join(path.name for path in begun)}; the same command again goes on with them")
    strategies.fill(table, points, reference)
    if points[reference].first.facts["num_scored"]:
        table.header += [f"KL against {reference}", "p (KL)", "MDD (KL)"]
        for row, point in zip(table.rows, points.values(), strict=True):
            row += _diverges(table, point, points[reference])
    return table


def _usual(points: Mapping[str, Point]) -> str | None:
    """What others are commonly held against, if it is there."""
    for key, wanted in (("strategy", "raw"), ("controller", "uniform")):
        for label, point in points.items():
            if point.first.facts.get(key) == wanted:
                return label
    return None


def _diverges(table: Table, point: Point, reference: Point) -> list[Entry]:
    """How much more KL it has on the same problems, a p, and the least difference that would have shown."""
    try:
        if point is reference:
            return [Entry("-")] * 3
        found = fair_contrast(point, reference, "kl")
    except Refused as error:
        table.refuse(f"KL of {point.label} against {reference.label}", error)
        return [Entry("-")] * 3
    texts = spoken(found.effect, "nats"), f"{found.p:.2g}", number(found.detectable, "nats")
    return [Entry(text, point.first, found.effect.cells[1:]) for text in texts]


def _points(given: Sequence[Path]) -> dict[str, Point]:
    """The runs in the order given, labelled by strategy, or by folder where that would not tell them apart."""
    by_folder = {str(cell.facts["folder"]): cell for cell in cells_of(load_runs(given))}
    found = folders(given)
    cells = [by_folder[label_of(folder, found)] for folder in found]
    names = [_name(cell, [other for other in cells if other.label == cell.label]) for cell in cells]
    unique = [name if names.count(name) == 1 else str(cell.facts["folder"]) for name, cell in zip(names, cells, strict=True)]
    return {name: Point(name, (cell,), cell.label) for name, cell in zip(unique, cells, strict=True)}


def _name(cell: Cell, alike: Sequence[Cell]) -> str:
    """The strategy, and what of its setting differs from others of that strategy."""
    settings = [
        f"{key}={value}"
        for key, value in dotted(cell.meta["config"])
        if not key.startswith(_APART) and any(other.facts.get(key) != value for other in alike)
    ]
    return f"{cell.label} ({', '.join(settings)})" if settings else cell.label


def report(folder: Path) -> list[Table]:
    """One run: its numbers with intervals, its timings of every entrant with their limits, its gates. Raises NoRecords for several."""
    points = list(_points([folder]).values())
    if len(points) > 1:
        raise NoRecords(f"{folder} holds {len(points)} runs and a report is of one; give {folder}/CELL, or compare them")
    point = points[0]
    cell = point.first
    numbers = Table("report", str(cell.facts["folder"]), ["number", "value", "n"])
    if cell.problem:
        numbers.note(f"not to be used: {cell.problem}")
    for name, one in METRICS.items():
        try:
            estimate = one.compute(point, None)
        except Refused:
            continue
        numbers.rows.append([Entry(name), Entry(spoken(estimate, one.unit)), Entry(str(estimate.num))])
        if estimate.note:
            numbers.note(f"{name}: {estimate.note}")
    gates = Table("gates", "Gates", ["gate", "passed", "measured", "limit"])
    gates.rows += [[Entry(str(g[k])) for k in ("name", "passed", "measured", "limit")] for g in cell.meta["gates"]]
    return [numbers, *entrants(cell), gates]
