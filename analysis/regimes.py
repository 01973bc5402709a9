"""Who hands over fastest at a bandwidth, T = hand-off through memory + bits / bandwidth, where the timed blocks tell the ways apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis import timing
from analysis.errors import Refused
from analysis.estimates import Point

Spent = tuple[pd.Series, pd.Series]  # seconds through memory and bits, of every block


def fastest(points: Mapping[str, Point], bandwidths: Sequence[float]) -> Iterator[tuple[float, float, str | None]]:
    """Runs of bandwidth, low to high, and who is fastest there; None where the 95% interval of its lead over another way, in log ratio
    over the blocks of both, reaches down to what one way differed from itself (A/A).

    Raises Refused where A/A was not measured, or two ways were not timed in one cell.
    """
    if not points:
        return
    floor, spent = _floor(points), {label: _spent(point) for label, point in points.items()}
    steps = [(low, high, _leader(spent, math.sqrt(low * high), floor)) for low, high in itertools.pairwise(bandwidths)]
    for leader, run in itertools.groupby(steps, key=lambda step: step[2]):
        parts = list(run)
        yield parts[0][0], parts[-1][1], leader


def _floor(points: Mapping[str, Point]) -> float:
    cells = {point.first.facts["folder"]: point.first for point in points.values()}
    if len(cells) > 1:
        raise Refused(f"who is fastest is told of ways that were timed in one cell, not in {', '.join(sorted(cells))}")
    return max(map(abs, timing.self_ratio(next(iter(points.values())), "handoff")))


def _spent(point: Point) -> Spent:
    seconds, size = (timing.blocks(point, "handoff", (point.entrant,), column)[point.entrant] for column in ("seconds", "wire_bytes"))
    return seconds, 8 * size


def _leader(spent: Mapping[str, Spent], bandwidth: float, floor: float) -> str | None:
    totals = {label: seconds + bits / bandwidth for label, (seconds, bits) in spent.items()}
    best, *others = sorted(totals, key=lambda label: float(totals[label].mean()))
    return best if all(timing.leads(np.log(totals[other] / totals[best]).dropna(), floor) for other in others) else None
