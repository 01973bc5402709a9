"""A codec x controller table: what each controller gains within a codec, so that a codec's gain is not called a controller's."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import controllers
from analysis.cells import Cell
from analysis.declared import TableSpec, Where
from analysis.tables import Entry, Table, count_of, empty_tables, note_organism, points


def tables(spec: TableSpec, cells: Sequence[Cell], where: Where, run: str) -> list[Table]:
    """A table for every combination of `each`: a row for each of `rows`, the KL of each of `columns` in it, and its difference
    from the first column, paired by problem."""
    found = []
    for table, shared in empty_tables(spec, where):
        for label, own in spec.rows.items():
            _row(table, label, spec, cells, shared | own, run)
        if table.rows:
            first, *others = spec.columns
            table.header[:] = ["codec", "n", "true bits", first, *(part for name in others for part in (name, f"{name} - {first}", "MDD"))]
            table.note("KL in nats a token; a difference is paired by problem and below zero where the controller is better")
            table.note("MDD: the least difference to the left of it that would have shown (80% power, 5% level)")
        found.append(table)
    return found


def _row(table: Table, label: str, spec: TableSpec, cells: Sequence[Cell], where: Where, run: str) -> None:
    rows = {f"{label}, {column}": own for column, own in spec.columns.items()}
    found = points(table, cells, rows, where, run)
    if not found:
        return
    base = found.get(next(iter(rows)))
    some = next(iter(found.values()))
    row = [Entry(label), count_of(some, "num_scored"), controllers.bits(table, some)]
    for place, name in enumerate(rows):
        point = found.get(name)
        row.append(Entry("-") if point is None else table.number("kl", point))
        if place:
            row += [Entry("-")] * 2 if point is None else controllers.against(table, point, base)
    table.rows.append(row)
    note_organism(table, (cell for point in found.values() for cell in point.cells))
