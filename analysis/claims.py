"""T1: each published claim, measured here, and the verdict in the wording that docs/metrics.md allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import final

from analysis.cells import Cell, Where, trained_organism
from analysis.contrasts import SEEDS
from analysis.declared import Claim, Declared, Measure
from analysis.errors import Missing, Refused
from analysis.estimates import Estimate, Point, number, point_of, spoken
from analysis.lines import line_error
from analysis.metrics import metric
from analysis.tables import Entry, Table, joined
from analysis.timing import FEW

HEADER = ["claim", "theirs", "definition", "ours", "what differs here", "verdict"]
UNTESTED = "cannot be tested here"
TERMS = (
    "s_prompt, s_forward, s_flop: the share of prompt tokens, of tokens through a forward pass, of operations that is saved; N: agents; "
    "p: an agent's own prompt, m: what it says, s: the timed receiver's own, in tokens; eta: the device's limit / measured; KL: from raw; "
    "shown: after Holm over the study's contrasts, each with the largest p of its training seeds, so that an interval may exclude zero "
    "and not be shown"
)


@final
@dataclass(frozen=True, eq=False, slots=True)
class _Measured:
    """What a measure came to: the cells that match (none: missing), and its estimate (None: refused)."""

    cells: tuple[Cell, ...] = ()
    estimate: Estimate | None = None
    beside: str = ""


def table(
    claims: Sequence[Claim], cells: Sequence[Cell], studies: Mapping[str, Declared], verdicts: Mapping[str, Mapping[str, str]] | None = None
) -> Table:
    """A row a claim. A measure whose cells are absent says which study is missing and how to run it.

    `verdicts` are those of each study's contrasts, by their names.
    """
    shown = Table("claims", "Claims", list(HEADER), prose=True)
    for claim in claims:
        published = {cell.study for cell in cells}
        if claim.instead in published and claim.study not in published:
            claim = replace(claim, study=claim.instead)
        run = studies[claim.study].command if claim.study in studies else f"python -m avpbench -m experiment={claim.study}"
        if claim.study in published:
            found = [_measured(claim, k, cells, run, shown) for k in range(len(claim.measures))]
        else:
            shown.note(f"missing: no records of {claim.study}; run: {run}")
            found = [_Measured()] * len(claim.measures)
        ours = [
            Entry(f"{claim.measures[k].label}: {_shown(claim, k, one.estimate)}{one.beside}", one.cells[0], one.cells[1:])
            for k, one in enumerate(found)
            if one.estimate
        ]
        row = [claim.claim, f"{claim.theirs} ({claim.source})", claim.definition]
        verdict = _verdict(claim, found, cells, (verdicts or {}).get(claim.study, {}))
        shown.rows.append([*map(Entry, row), joined(ours) if ours else Entry("-"), Entry(claim.differs), verdict])
    shown.note(TERMS)
    return shown


def _measured(claim: Claim, place: int, cells: Sequence[Cell], run: str, shown: Table) -> _Measured:
    measure = claim.measures[place]
    where = {"study": claim.study}
    matched: tuple[Cell, ...] = ()
    try:
        point = point_of(cells, f"{claim.claim}: {measure.label}", where | measure.cells, measure.entrant, run)
        matched = point.cells
        against = None if measure.against is None else point_of(cells, f"{measure.label} (against)", where | measure.against, None, run)
        found = _line(measure, cells, where, run) if measure.line else metric(measure.metric).compute(point, against)
    except Missing as error:
        shown.note(str(error))
        return _Measured()
    except Refused as error:
        shown.refuse(claim.claim, error)
        return _Measured(matched)
    if found.note:
        shown.note(f"{claim.claim}, {measure.label}: {found.note}", *found.cells)
    return _Measured(found.cells, found, "" if measure.line else metric(measure.metric).beside(point))


def _line(measure: Measure, cells: Sequence[Cell], where: Where, run: str) -> Estimate:
    (fact, values), *_ = measure.line.items()

    def side(against: bool, value: float) -> Point:
        facts = (measure.against if against else measure.cells) or {}
        return point_of(cells, f"{measure.label}, {fact} {value}", {**where, **facts, fact: value}, None, run)

    return line_error(side, values, float(measure.cells[fact]), measure.metric)


def _shown(claim: Claim, place: int, estimate: Estimate) -> str:
    return spoken(estimate, _unit(claim.measures[place]))


def _unit(measure: Measure) -> str:
    return "%" if measure.line else metric(measure.metric).unit


def _verdict(claim: Claim, found: Sequence[_Measured], every: Sequence[Cell], contrasts: Mapping[str, str]) -> Entry:
    """What is said of the claim, and all the cells that it rests on."""
    least, more = _least(claim, every) if claim.least else ("", ())
    cells = tuple(dict.fromkeys([*(cell for one in found if one.estimate for cell in one.cells), *more]))
    return Entry(_said(claim, found, least, contrasts), cells[0] if cells else None, cells[1:])


def _said(claim: Claim, found: Sequence[_Measured], least: str, contrasts: Mapping[str, str]) -> str:
    """One of the claim's wordings, its places filled with what was measured."""
    there = [one.estimate for one in found if one.estimate]
    cells = [cell for one in found for cell in one.cells]
    if claim.needs == "real" and not any(map(_real, cells)):
        return f"{UNTESTED}: it wants real weights"
    if claim.needs == "cuda" and not any(cell.on_cuda for cell in cells):
        first = found[0].estimate if found else None
        direction = f"; on a CPU, as a direction only: {_shown(claim, 0, first)}" if first else ""
        return f"{UNTESTED}: it wants a GPU{direction}"
    if claim.needs == "cuda" and len(devices := sorted({str(cell.meta["identity"]["device"]) for cell in cells})) > 1:
        return f"undecided: measured on several devices ({'; '.join(devices)})"
    if any(one.cells and not one.estimate for one in found):
        return "undecided: refused, as the notes say"
    if len(there) < len(found):
        return "missing records" if not there else f"undecided: {len(found) - len(there)} of {len(found)} measures are missing"
    if any(FEW in one.note for one in there):
        return "undecided: too few process restarts"
    texts = [number(one.value, _unit(measure)) for one, measure in zip(there, claim.measures, strict=True)]
    rulings = {
        m.label: _ruling(claim, one, contrasts.get(m.contrast, "") if m.contrast else None)
        for m, one in zip(claim.measures, there, strict=True)
        if m.counts
    }
    matching = [label.partition(":")[0] for label, ruling in rulings.items() if ruling == "holds"]
    said = claim.verdict[_together(set(rulings.values()))]
    return said.format(*texts, least=least, matching=", ".join(matching) or "none") + _seeds(there[0].cells)


def _least(claim: Claim, cells: Sequence[Cell]) -> tuple[str, tuple[Cell, ...]]:
    """The first of the named fact's values from which on the first measure is all it should be, and the cells that show it."""
    measure, first, seen = claim.measures[0], "none", list[Cell]()
    for fact, values in claim.least.items():
        of = f"of {', '.join(map(str, values))} measured"
        for value in reversed(values):
            where = {"study": claim.study, fact: value}
            try:
                point, against = (point_of(cells, measure.label, {**(side or {}), **where}) for side in (measure.cells, measure.against))
                found = metric(measure.metric).compute(point, against)
            except Refused:
                return f"{first} ({of.removesuffix(' measured')}; not measured at {value})", tuple(seen)
            seen += found.cells
            if _ruling(claim, found) != "holds":
                break
            first = f"{value}, n = {found.num}"
        first = f"{first} ({of})"
    return first, tuple(seen)


def _seeds(cells: Sequence[Cell]) -> str:
    """What is to be said of a trained model organism of fewer training seeds than a conclusion wants."""
    trained = {cell.facts.get("variant") for cell in cells if trained_organism(cell)}
    return f", in {len(trained)} training seed{'s' if len(trained) > 1 else ''}" if 0 < len(trained) < SEEDS else ""


def _real(cell: Cell) -> bool:
    return cell.facts.get("load") == "weights" and cell.facts.get("model.zoo") is None


def _ruling(claim: Claim, one: Estimate, contrast: str | None = None) -> str:
    """`holds` where the interval lies within the rule, `fails` where it lies outside, else `unclear`; no difference at all is that too.
    Where a contrast of the study was named, what came of that, in every training seed."""
    if contrast is not None:
        alike = ", and not" not in contrast
        return "holds" if alike and contrast.startswith("holds") else "fails" if alike and contrast.startswith("the reverse") else "unclear"
    low = -math.inf if claim.at_least is None else claim.at_least
    high = math.inf if claim.at_most is None else claim.at_most
    a, b = one.value if one.low is None else one.low, one.value if one.high is None else one.high
    return "holds" if low < a and b < high else "fails" if b < low or a > high else "unclear"


def _together(rulings: Set[str]) -> str:
    return "holds" if rulings == {"holds"} else "fails" if "fails" in rulings else "unclear"
