"""T1: each published claim, measured here, and the verdict in the wording that docs/metrics.md allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.cells import Cell
from analysis.declared import Claim, Declared
from analysis.errors import MismatchedSamples, Missing, Refused
from analysis.estimates import Estimate, number, point_of, spoken
from analysis.metrics import metric
from analysis.tables import Entry, Table

HEADER = ["claim", "theirs", "definition", "ours", "what differs here", "verdict"]
UNTESTED = "cannot be tested here"


def table(claims: Sequence[Claim], cells: Sequence[Cell], studies: Mapping[str, Declared]) -> Table:
    """A row a claim. A measure whose cells are absent says which study is missing and how to run it."""
    shown = Table("claims", "Claims", list(HEADER), prose=True)
    for claim in claims:
        run = studies[claim.study].command if claim.study in studies else f"python -m avpbench -m experiment={claim.study}"
        if any(cell.study == claim.study for cell in cells):
            found = [_measured(claim, k, cells, run, shown) for k in range(len(claim.measures))]
        else:
            shown.note(f"missing: no records of {claim.study}; run: {run}")
            found = [None] * len(claim.measures)
        there = [one for one in found if one]
        ours = "; ".join(f"{claim.measures[k].label}: {_shown(claim, k, one)}" for k, one in enumerate(found) if one)
        row = [claim.claim, f"{claim.theirs} ({claim.source})", claim.definition]
        first = there[0].cells[0] if there else None
        shown.rows.append(
            [*map(Entry, row), Entry(ours or "-", first), Entry(claim.differs), Entry(_verdict(claim, found), first)],
        )
    return shown


def _measured(claim: Claim, place: int, cells: Sequence[Cell], run: str, shown: Table) -> Estimate | None:
    measure = claim.measures[place]
    where = {"study": claim.study}
    try:
        point = point_of(cells, f"{claim.claim}: {measure.label}", where | measure.cells, measure.entrant, run)
        against = None if measure.against is None else point_of(cells, f"{measure.label} (against)", where | measure.against, None, run)
        return metric(measure.metric).compute(point, against)
    except Missing as error:
        shown.note(str(error))
    except (Refused, MismatchedSamples) as error:
        shown.note(f"{claim.claim}: refused: {error}")
    return None


def _shown(claim: Claim, place: int, estimate: Estimate) -> str:
    return spoken(estimate, metric(claim.measures[place].metric).unit)


def _verdict(claim: Claim, found: Sequence[Estimate | None]) -> str:
    """One of the claim's wordings, its places filled with what was measured."""
    there = [one for one in found if one is not None]
    if claim.needs == "real" and not any(_real(one) for one in there):
        return f"{UNTESTED}: it wants real weights"
    if claim.needs == "cuda" and not any(one.cells[0].on_cuda for one in there):
        direction = f"; on a CPU, as a direction only: {_shown(claim, 0, found[0])}" if found and found[0] else ""
        return f"{UNTESTED}: it wants a GPU{direction}"
    if len(there) < len(found):
        return "missing records" if not there else f"undecided: {len(found) - len(there)} of {len(found)} measures are missing"
    texts = [number(one.value, metric(measure.metric).unit) for one, measure in zip(there, claim.measures, strict=True)]
    return claim.verdict[_ruling(claim, there)].format(*texts)


def _real(estimate: Estimate) -> bool:
    config = estimate.cells[0].facts
    return config.get("load") == "weights" and config.get("model.zoo") is None


def _ruling(claim: Claim, found: Sequence[Estimate]) -> str:
    """`holds` where every interval lies within the rule, `fails` where one lies outside it, else `unclear`."""
    low = -float("inf") if claim.at_least is None else claim.at_least
    high = float("inf") if claim.at_most is None else claim.at_most
    spans = [(one.value if one.low is None else one.low, one.value if one.high is None else one.high) for one in found]
    if all(low <= a and b <= high for a, b in spans):
        return "holds"
    return "fails" if any(b < low or a > high for a, b in spans) else "unclear"
