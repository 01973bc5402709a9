"""T3: controllers at equal bits, against uniform and their own permutation, and how far they go towards the oracle."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import quality
from analysis.bits import equal_bits, scored
from analysis.cells import MIXTURE, Cell
from analysis.declared import TableSpec, Where
from analysis.errors import NotMeasured, Refused
from analysis.estimates import Point, number, spoken
from analysis.tables import Entry, Table, count_of, empty_tables, note_organism, points


def tables(spec: TableSpec, cells: Sequence[Cell], where: Where, run: str) -> list[Table]:
    """A table for every combination of `each`, against the first row; a row `random NAME` is the permutation of the controller NAME."""
    found = []
    for table, own in empty_tables(spec, where):
        _fill(table, next(iter(spec.rows)), points(table, cells, spec.rows, own, run))
        found.append(table)
    return found


def _header(first: str, rows: dict[str, Point]) -> list[str]:
    parts = ("controller", "codec")
    what = next((part for part in parts if len({point.first.facts[part] for point in rows.values()}) > 1), parts[0])
    return [
        what, "n of KL", "true bits", "KL", "median", "p99", f"KL - {first}", "MDD", "KL - its random", "MDD", "share of gap",
        "n of accuracy", "accuracy", f"accuracy - {first} (points)", "MDD",
    ]  # fmt: skip


def _fill(table: Table, first: str, rows: dict[str, Point]) -> None:
    if not rows:
        return
    table.header[:] = _header(first, rows)
    uniform, oracle = rows.get(first), rows.get("oracle")
    for label, point in rows.items():
        own = rows.get(f"random {label}", rows.get("random"))
        table.rows.append(
            [
                Entry(label),
                count_of(point, "num_scored"),
                bits(table, point),
                table.number("kl", point),
                _quantile(point, 0.5),
                _quantile(point, 0.99),
                *against(table, point, uniform),
                *against(table, point, own),
                _share(table, point, own, oracle),
                count_of(point, "num_samples"),
                table.number("accuracy", point),
                *against(table, point, uniform, "accuracy"),
            ]
        )
    note_organism(table, (cell for point in rows.values() for cell in point.cells))
    table.note("KL in nats a token of the gold continuation; differences are paired by problem, below zero is better")
    table.note("MDD: the least difference to the left of it that would have shown (80% power, 5% level)")
    table.note(MIXTURE)
    if oracle and any(label.startswith("random") for label in rows):
        table.note("share of gap: (random - it) / (random - oracle), left out where random and oracle cannot be told apart")
    else:
        table.note("no random permutation or no oracle among these rows, and so no share of the gap between them")
    shares = {label: _share(table, uniform, point, oracle).text for label, point in rows.items() if uniform and label.startswith("random ")}
    of = [cell for label, point in rows.items() if label in ("uniform", "oracle") or label in shares for cell in point.cells]
    if known := [f"{share} of the way from {label}" for label, share in shares.items() if share != "-"]:
        table.note(f"uniform, which ranks nothing, is {', '.join(known)} to oracle: a ranking is worth something where it beats both", *of)


def _quantile(point: Point, share: float) -> Entry:
    try:
        found = quality.quantile(point, "kl", share)
    except Refused:  # the mean beside it says why
        return Entry("-")
    return Entry(f"{found.value:.4g}", point.first, point.cells[1:])


def bits(table: Table, point: Point) -> Entry:
    """The true bits of what the KL beside it is of, or of the agents' own words where nothing was scored."""
    return table.number("scored_bits" if scored(point) else "mean_bits", point)


def against(table: Table, point: Point, other: Point | None, name: str = "kl") -> list[Entry]:
    """The difference from the other at equal bits, and the least that would have shown."""
    if other is None or other is point:
        return [Entry("-")] * 2
    unit = "points" if name == "accuracy" else "nats"
    try:
        found = quality.contrast(point, other, name)
        equal_bits(point, other, name)
    except NotMeasured:
        return [Entry("-")] * 2
    except Refused as error:
        table.refuse(f"{point.label} against {other.label}", error)
        return [Entry("-")] * 2
    texts = spoken(found.effect, unit), number(found.detectable, unit).lstrip("+")
    return [Entry(text, point.first, found.effect.cells[1:]) for text in texts]


def _share(table: Table, point: Point | None, random: Point | None, oracle: Point | None) -> Entry:
    if point is None or random is None or oracle is None or point in (random, oracle):
        return Entry("-")
    try:
        return table.entry(quality.share_of_gap(point, random, oracle), "%")
    except Refused:  # or the differences beside it say why
        return Entry("-")
