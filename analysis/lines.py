"""How far a line is off: what a few short chains predict of a ratio, against what a long one measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analysis.cells import comparable, same_clock
from analysis.errors import Refused
from analysis.estimates import Estimate, Point
from analysis.quality import pooled


def line_error(side: Callable[[bool, float], Point], values: Sequence[float], at: float, metric: str) -> Estimate:
    """Predicted / measured - 1 of ratio:KEY at `at`, where both sides' means are lines over `values`; of the problems that all have.

    Args:
        side: the point of the measure itself (False) or of what it is against (True), at a value.
    """
    kind, _, key = metric.partition(":")
    if kind != "ratio" or len(values) < 2:
        raise Refused(f"a line wants a ratio:KEY and two values at least, got {metric!r} and {list(values)}")
    predicted, measured, count = 1.0, 1.0, 0
    cells: list[Any] = []
    for against in (False, True):
        points = [side(against, value) for value in (*values, at)]
        cells += [cell for point in points for cell in point.cells]
        means, count = _means(points, key)
        slope, start = np.polyfit(np.array(values, dtype=float), np.array(means[:-1]), 1)
        sign = 1 if against else -1
        predicted, measured = predicted * float(start + slope * at) ** sign, measured * means[-1] ** sign
    comparable(cells)
    if key.endswith("_s"):
        same_clock(cells)
    note = f"a line through {len(values)} means of the {count} problem{'s' if count > 1 else ''} that all have, without an interval"
    return Estimate(predicted / measured - 1, None, None, count, tuple(cells), note)


def _means(points: Sequence[Point], key: str) -> tuple[list[float], int]:
    """Of the problems that all have, and how many these are."""
    found = [pooled(point.cells, key) for point in points]
    common = found[0].index
    for one in found[1:]:
        common = common.intersection(one.index)
    if not len(common):
        raise Refused(f"{points[0].label} to {points[-1].label} have no problem in common")
    return [float(one[common].mean()) for one in found], len(common)
