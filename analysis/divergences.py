"""How what was handed over differs from raw, beside KL: log-likelihood, first choices, and what attention reads, by hop and by layer."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import quality
from analysis.cells import Cell, nested
from analysis.declared import TableSpec, Where
from analysis.errors import Refused
from analysis.estimates import Point
from analysis.tables import Entry, Table, empty_tables, note_organism, points


def tables(spec: TableSpec, cells: Sequence[Cell], where: Where, run: str) -> list[Table]:
    """A table for every combination of `each`."""
    found = []
    for table, own in empty_tables(spec, where):
        _fill(table, points(table, cells, spec.rows, own, run))
        found.append(table)
    return found


def _fill(table: Table, rows: dict[str, Point]) -> None:
    if not rows:
        return
    hops, layers = max((_shape(point) for point in rows.values()), default=(0, 0))
    columns = {"NLL - raw's": ("nll_difference", "nats"), "changed top token": ("top1_flips", "%")}
    columns |= {f"read, hop {hop}": (f"attention_error:{hop - 1}", "%") for hop in range(1, hops + 1)}
    columns |= {f"read, layer {layer}": (f"attention_error:{hops - 1}:{layer}", "%") for layer in range(layers)}
    table.header[:] = ["strategy", *columns]
    for label, point in rows.items():
        table.rows.append([Entry(label, point.first), *(_entry(table, point, name, unit) for name, unit in columns.values())])
    note_organism(table, (cell for point in rows.values() for cell in point.cells))
    table.note(
        "read: how far what the gold continuation's queries read is from what they read of raw, as a share of its norm; after each hop,"
        " a mean over layers, and after the last one by layer; below zero of NLL is better than raw"
    )


def _shape(point: Point) -> tuple[int, int]:
    """Hops and layers that were measured."""
    frame = point.first.fidelity
    held = [text for text in frame.get("attention_errors", []) if isinstance(text, str)]
    try:
        first = nested(held[0], point.label) if held else []
    except Refused:  # its row says why
        return 0, 0
    return (len(first), len(first[0])) if first else (0, 0)


def _entry(table: Table, point: Point, name: str, unit: str) -> Entry:
    try:
        return table.entry(quality.average(point, name), unit)
    except Refused as error:
        table.refuse(point.label, error)
        return Entry("-")
