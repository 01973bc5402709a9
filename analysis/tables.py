"""Tables: rows of text with the cells that each number comes from, notes under them; as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from analysis.cells import ORGANISM, Cell, Where
from analysis.declared import TableSpec, combinations, filled
from analysis.errors import NotMeasured, Refused
from analysis.estimates import Estimate, Point, point_of, spoken
from analysis.metrics import metric

Link = Callable[[Cell], str]  # the label of a reference link


@final
@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """One field; `cell` is where its number comes from, if it is one. A field of several numbers has its text and sources by `parts`."""

    text: str
    cell: Cell | None = None
    others: tuple[Cell, ...] = ()  # more that it comes from
    parts: tuple[Entry, ...] = ()

    @property
    def sources(self) -> list[Cell]:
        """Every cell that it comes from."""
        own = [self.cell, *self.others] if self.cell else []
        return [*own, *(cell for part in self.parts for cell in part.sources)]


def joined(parts: Sequence[Entry]) -> Entry:
    """Several numbers in one field."""
    return Entry("; ".join(part.text for part in parts), parts[0].cell, (), tuple(parts))


@final
@dataclass(eq=False, slots=True)
class Table:
    """`notes` say what is missing and how to read it, each with the cells of its numbers; `prose`: its fields are words, not
    numbers; `refusals`: why a number is refused, and of which rows which metrics are
    (none: the whole row)."""

    name: str
    title: str
    header: list[str]
    rows: list[list[Entry]] = field(default_factory=list)
    notes: dict[str, tuple[Cell, ...]] = field(default_factory=dict)
    prose: bool = False
    remarks: dict[str, list[Cell]] = field(default_factory=dict)  # what is to be said of some cells' numbers
    refusals: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def told(self, link: Link | None = None) -> list[str]:
        """The notes, and each remark once with the cells that it is of; with `link`, numbers of notes lead to theirs."""
        notes = [f"{_whose(metrics)}: refused: {why}" for why, metrics in self.refusals.items()]
        notes += [text + _sources(cells, link) for text, cells in self.notes.items()]
        return [*notes, *(f"{text}: {', '.join(_named(cell, link) for cell in cells)}" for text, cells in self.remarks.items())]

    def note(self, text: str, *cells: Cell) -> None:
        """Adds a note once; its numbers come from these cells."""
        self.notes.setdefault(text, cells)

    def number(self, name: str, point: Point, against: Point | None = None) -> Entry:
        """A metric as a field; `-` with a note where it is refused."""
        try:
            return self.entry(metric(name).compute(point, against), metric(name).unit)
        except NotMeasured:
            return Entry("-")
        except Refused as error:
            self.refuse(point.label, error, name)
            return Entry("-")

    def refuse(self, what: str, error: Exception, name: str = "") -> None:
        """Says that a row, or a metric of it, is refused, and why; what is refused for the same reason is said at once."""
        self.refusals.setdefault(str(error), {}).setdefault(what, []).extend([name] if name else [])

    def entry(self, estimate: Estimate, unit: str) -> Entry:
        """An estimate as a field; what is to be said of it becomes a remark."""
        if estimate.note and estimate.cells[0] not in (held := self.remarks.setdefault(estimate.note, [])):
            held.append(estimate.cells[0])
        return Entry(spoken(estimate, unit), estimate.cells[0], estimate.cells[1:])


def count_of(point: Point, key: str) -> Entry:
    """How many problems it rests on, `key` of summary.json: of so many training seeds, where there are several."""
    seeds, count = len(point.by_seed), str(point.first.facts[key])
    return Entry(f"{seeds} x {count}" if seeds > 1 else count, point.first, point.cells[1:])


def markdown(table: Table, link: Link | None = None, level: int = 3) -> str:
    """The table under a heading, its notes below; with `link`, every number leads to its cell, and a last column to all cells of a
    row where a number has several."""
    lines = [f"{'#' * level} {table.title}", ""]
    if table.rows:
        several = link is not None and any(one.others for row in table.rows for entry in row for one in (entry, *entry.parts))
        header = [*table.header, "cells"] if several else table.header
        lines += [_row(header), _row(["---", *["---" if table.prose else "---:"] * (len(header) - 1)])]
        lines += [_row([*(_linked(entry, link) for entry in row), *([_all(row, link)] if several else [])]) for row in table.rows]
        lines.append("")
    lines += [f"- {_escaped(note)}" for note in table.told(link)]
    return "\n".join(lines).rstrip() + "\n"


def _all(row: Sequence[Entry], link: Link | None) -> str:
    """Every cell of a row, for the numbers that come from several."""
    cells = dict.fromkeys(cell for entry in row for cell in entry.sources)
    return " ".join(to_cell(cell, link) for cell in cells) if link else ""


def to_cell(cell: Cell, link: Link) -> str:
    """A link that shows the cell's hash, which is mostly its label too."""
    label = link(cell)
    return f"[{cell.hash}][{'' if label == cell.hash else label}]"


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _linked(entry: Entry, link: Link | None) -> str:
    if entry.parts:
        return "; ".join(_linked(part, link) for part in entry.parts)
    text = _escaped(entry.text)
    return f"[{text.replace('[', '(').replace(']', ')')}][{link(entry.cell)}]" if link and entry.cell else text


def _whose(metrics: Mapping[str, Sequence[str]]) -> str:
    """Rows in which the same is refused, together, and what."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for label, names in metrics.items():
        rows.setdefault(tuple(dict.fromkeys(names)), []).append(label)
    return "; ".join("; ".join(labels) + (f" ({', '.join(names)})" if names else "") for names, labels in rows.items())


def _sources(cells: Sequence[Cell], link: Link | None) -> str:
    return f" ({', '.join(to_cell(cell, link) for cell in dict.fromkeys(cells))})" if link and cells else ""


def _named(cell: Cell, link: Link | None) -> str:
    folder = str(cell.facts["folder"])
    return f"[{folder}][{link(cell)}]" if link else folder


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def as_csv(table: Table) -> str:
    """Header and rows; a last column names the cells."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.header, "cells"])
    for row in table.rows:
        cells = dict.fromkeys(cell.hash for entry in row for cell in entry.sources)
        writer.writerow([*(entry.text for entry in row), " ".join(cells)])
    return out.getvalue()


def empty_tables(spec: TableSpec, where: dict[str, Any]) -> Iterator[tuple[Table, dict[str, Any]]]:
    """An empty table for every combination of `each`, and what its cells match."""
    for chosen in combinations(spec.each):
        suffix = "".join(f"_{key}{value}" for key, value in chosen.items())
        yield Table(spec.name + suffix, filled(spec.title, chosen), []), where | spec.where | chosen


def note_organism(table: Table, cells: Iterable[Cell]) -> None:
    """Says what an embedded model is for, where a cell is of one."""
    if any(cell.facts.get("model.zoo") for cell in cells):
        table.note(ORGANISM)


def note_versions(table: Table, cells: Iterable[Cell]) -> None:
    """Says in what cells differ that may stand in one table, though a contrast of them is refused (device, dtype) or hides it (code)."""
    cells = list(cells)
    for key, what in (("code", "versions of the source"), ("libraries", "versions of torch, transformers or tokenizers")):
        if (number := len({str(cell.meta["identity"][key]) for cell in cells})) > 1:
            table.note(f"cells of {number} {what} stand side by side", *cells)
    for key in ("device", "dtype"):
        if len(found := sorted({str(cell.meta["identity"][key]) for cell in cells})) > 1:
            table.note(f"cells of several {key}s stand side by side: {', '.join(found)}", *cells)


def points(table: Table, cells: Sequence[Cell], rows: Mapping[str, Where], where: Where, run: str) -> dict[str, Point]:
    """The rows that are there, by label; of the others a note says what is missing and how to have it."""
    found: dict[str, Point] = {}
    if not any(cell.matches(where) for cell in cells):
        asked = ", ".join(f"{key}={value}" for key, value in where.items())
        table.note(f"missing: every row ({asked})" + (f"; run: {run}" if run else ""))
        return found
    for label, own in rows.items():
        chosen = {**where, **own}
        entrant = chosen.pop("entrant", None)
        try:
            found[label] = point_of(cells, label, chosen, entrant, run)
        except Refused as error:
            table.note(str(error))
    return found
