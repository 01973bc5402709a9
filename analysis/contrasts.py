"""The contrasts that a study named before its records: effect, p, Holm's p over all of them, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from analysis import quality, timing
from analysis.bits import fair_contrast
from analysis.cells import Cell, trained_organism
from analysis.declared import ContrastSpec, Declared, Where, combinations, filled
from analysis.errors import Missing, Refused
from analysis.estimates import Estimate, Point, number, point_of, spoken
from analysis.metrics import metric
from analysis.stats import detectable, holm
from analysis.tables import Entry, Table, note_organism, note_versions

LEVEL = 0.05
SEEDS = 3


@final
@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    effect: Estimate
    p: float
    detectable: float
    by_seed: tuple[float, ...]
    unit: str
    none: float  # the effect that is no effect
    beside: str = ""


def table(study: Declared, cells: Sequence[Cell]) -> Table:
    """All of a study's contrasts; Holm is over those that the README names, the missing ones counted as p = 1."""
    shown = Table(f"{study.name}_contrasts", "Contrasts", [])
    found: dict[str, tuple[ContrastSpec, _Found]] = {}
    names = []
    for spec in study.contrasts:
        for chosen in combinations(spec.each):
            name = filled(spec.name, chosen)
            names.append(name)
            try:
                found[name] = spec, _measured(spec, cells, study.where | spec.where | chosen, study.command)
            except Missing as error:
                shown.note(str(error))
            except Refused as error:
                shown.refuse(name, error)
    if not found:
        return shown
    shown.header[:] = ["contrast", "n", "effect", "p", "p (Holm)", "MDD", "seeds alike", "verdict"]
    adjusted = holm({name: found[name][1].p if name in found else 1.0 for name in names})
    for name, (spec, one) in found.items():
        shown.rows.append(_row(name, spec, one, adjusted[name]))
        if one.effect.note:
            shown.note(f"{name}: {one.effect.note}", *one.effect.cells)
    if timed := [cell for spec, one in found.values() if spec.metric in timing.CLOCKS for cell in one.effect.cells]:
        shown.note(f"{', '.join(timing.CLOCKS)}: {timing.setting(timed)}")
    note_versions(shown, dict.fromkeys(cell for _, one in found.values() for cell in one.effect.cells))
    note_organism(shown, (cell for _, one in found.values() for cell in one.effect.cells))
    shown.note(f"named before the records where the name does not say otherwise; Holm over {len(names)}")
    shown.note(
        "MDD: the least difference that would have shown (80% power, 5% level) before Holm; of several training seeds the largest of theirs"
    )
    return shown


def verdicts(shown: Table) -> dict[str, str]:
    """What came of each contrast of such a table, by its name."""
    return {row[0].text: row[-1].text for row in shown.rows}


def _measured(spec: ContrastSpec, cells: Sequence[Cell], where: Where, run: str) -> _Found:
    a, b = (_point(cells, filled(spec.name, where), where | _filled(side, where), run) for side in (spec.a, spec.b))
    if spec.metric in timing.CLOCKS:
        if a.cells != b.cells:
            raise Refused("timings are compared within the same blocks only: a and b must be entrants of one cell")
        ratio, p = timing.faster(a, timing.CLOCKS[spec.metric], b.entrant)
        etas = timing.etas(a, timing.CLOCKS[spec.metric], b.entrant)
        return _Found(ratio, p, math.exp(detectable(*map(math.log, _ends(ratio)))), (), "x", 1.0, etas)
    if (column := paired_column(spec.metric)) is not None:
        paired = quality.contrast(a, b, column)
        is_ratio = spec.metric.startswith("ratio:")
        unit = metric(spec.metric).unit
        effect = metric(spec.metric).compute(a, b)
        low, high = _ends(effect)
        least = math.exp(detectable(math.log(low), math.log(high))) if is_ratio else detectable(low, high)
        return _Found(effect, paired.p, least, paired.by_seed, unit, 1.0 if is_ratio else 0.0)
    found = fair_contrast(a, b, spec.metric)
    unit = "points" if spec.metric == "accuracy" else metric(spec.metric).unit
    return _Found(found.effect, found.p, found.detectable, found.by_seed, unit, 0.0)


def _ends(effect: Estimate) -> tuple[float, float]:
    """Its interval. Raises Refused where it has none: a contrast without one is no contrast."""
    folder = effect.cells[0].facts["folder"]
    if effect.low is None or effect.high is None:
        raise Refused(f"{folder}: a single number without an interval")
    if not math.isfinite(effect.value + effect.low + effect.high):
        raise Refused(f"{folder}: {effect.value:g} [{effect.low:g}, {effect.high:g}] is no interval: a ratio to nothing")
    return effect.low, effect.high


def _filled(side: Where, where: Where) -> Where:
    """A side's facts, every {fact} in them put in."""
    return {key: filled(value, where) if isinstance(value, str) else value for key, value in side.items()}


def paired_column(name: str) -> str | None:
    """What a metric of two pairs by problem, for its p: a saving or `ratio:KEY`; None for others."""
    return name.removeprefix("ratio:") if name.startswith("ratio:") else quality.SAVINGS.get(name)


def _point(cells: Sequence[Cell], label: str, where: Where, run: str) -> Point:
    entrant = where.pop("entrant", None)
    return point_of(cells, str(where.get("controller") or where.get("strategy") or label), where, entrant, run)


def _row(name: str, spec: ContrastSpec, found: _Found, adjusted: float) -> list[Entry]:
    cell, *others = found.effect.cells
    rest = tuple(others)
    alike = "-" if len(found.by_seed) < 2 else f"{'yes' if len(_signs(found.by_seed)) == 1 else 'no'} ({len(found.by_seed)})"
    return [
        Entry(name),
        Entry(str(found.effect.num), cell, rest),
        Entry(spoken(found.effect, found.unit) + found.beside, cell, rest),
        Entry(f"{found.p:.2g}", cell, rest),
        Entry(f"{adjusted:.2g}", cell, rest),
        Entry(number(found.detectable, found.unit).lstrip("+"), cell, rest),
        Entry(alike),
        Entry(_verdict(spec, found, adjusted), cell, rest),
    ]


def _verdict(spec: ContrastSpec, found: _Found, adjusted: float) -> str:
    effect = found.effect
    low, high = _ends(effect)
    if timing.FEW in effect.note:
        return "undecided: too few process restarts"
    if adjusted > LEVEL or low <= found.none <= high:
        return "no difference shown"
    more = effect.value > found.none
    said = "holds" if more == (spec.expect == "more") else "the reverse holds"
    return said + _narrow(found.by_seed) if found.by_seed and any(map(trained_organism, effect.cells)) else said


def _narrow(by_seed: Sequence[float]) -> str:
    """What is to be said of a conclusion that fewer than SEEDS training seeds carry, or not all of them."""
    if len(_signs(by_seed)) > 1:
        return f", and not in each of {len(by_seed)} training seeds"
    return "" if len(by_seed) >= SEEDS else f", in {len(by_seed)} training seed{'s' if len(by_seed) > 1 else ''}"


def _signs(values: Iterable[float]) -> set[int]:
    """Which of -1, 0 and 1 occur: an effect of nothing has the sign of neither side."""
    return {(value > 0) - (value < 0) for value in values}
