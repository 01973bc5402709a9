"""Whether two ways are compared at equal true bits."""

from __future__ import annotations

from dataclasses import replace

from analysis.errors import Refused
from analysis.estimates import Point
from analysis.quality import Contrast, average, contrast

EQUAL = 0.02  # the share by which true bits may differ in one comparison


def bits_apart(point: Point, other: Point, name: str) -> str:
    """What to say where the true bits differ by more than EQUAL, else nothing: of the hand-overs that the metric `name` is about, the
    scored ones for KL, those of the agents' own words for accuracy. Raises Refused where one has none."""
    which = "scored_bits" if name == "kl" and scored(point) and scored(other) else "mean_bits"
    mine, theirs = (average(p, which, interval=False).value for p in (point, other))
    apart = abs(mine - theirs) > EQUAL * theirs
    return f"{point.label} takes {mine:.2f} true bits, {other.label} {theirs:.2f}" if apart else ""


def equal_bits(point: Point, other: Point, name: str) -> None:
    """Raises Refused where the true bits differ by more than EQUAL."""
    if said := bits_apart(point, other, name):
        raise Refused(said)


def fair_contrast(point: Point, other: Point, name: str) -> Contrast:
    """quality.contrast, its effect with what is to be said of unequal bits. Raises Refused where the controllers are two: nothing is
    claimed of those at unequal bits."""
    found = contrast(point, other, name)
    mine, others = (p.first.facts.get("controller") for p in (point, other))
    if mine is None or others is None:
        return found
    if mine != others:
        equal_bits(point, other, name)
    note = "; ".join(filter(None, (found.effect.note, bits_apart(point, other, name))))
    return replace(found, effect=replace(found.effect, note=note))


def scored(point: Point) -> bool:
    """Whether every cell has the true bits of what the fidelity phase handed over."""
    return all("mean_bits" in c.fidelity and bool(c.fidelity.mean_bits.notna().any()) for c in point.cells)
