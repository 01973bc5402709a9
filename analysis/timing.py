"""Numbers that rest on timed blocks: processes are resampled before their blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.cells import Cell, comparable, nested
from analysis.errors import NotMeasured, Refused
from analysis.estimates import Estimate, Point
from analysis.stats import bootstrap
from avpbench.summary import AA_LIMIT, REFERENCE, RESIDUAL_LIMIT

ETA_LIMIT = 0.6  # of re-prefill on a GPU, below which a speed-up is not published
CLOCKS = {"ttft_host": "host", "ttft_device": "device", "handoff": "handoff"}  # as metrics name them: as records do
PROCESSES = 5  # restarts that a published ratio wants
FEW = "process restarts"  # said of one that has fewer


def _rows(cell: Cell, entrant: str, clock: str) -> pd.DataFrame:
    frame = cell.latency
    if frame.empty:
        if cell.ran("latency"):
            raise Refused(f"{cell.facts['folder']} has no timed blocks, although latency was on")
        raise NotMeasured(f"{cell.facts['folder']} was not timed: latency was off")
    rows = _sorted_out(cell).get((entrant, clock))
    if rows is None and entrant in set(frame.strategy):
        raise Refused(f"{cell.facts['folder']}: every timed hop of {entrant!r} fell back to words")
    if rows is None:
        raise Refused(f"{cell.facts['folder']} did not time {entrant!r}; it has {', '.join(sorted(set(frame.strategy)))}")
    return rows


@cache
def _sorted_out(cell: Cell) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of every entrant and clock, without the second runs of A/A and what fell back to words, by process and block."""
    frame = cell.latency
    parts = frame[~frame.aa & ~frame.fell_back].groupby(["strategy", "clock"])
    return {(str(name), str(clock)): _means_of_blocks(part) for (name, clock), part in parts}


def _means_of_blocks(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of a strategy in a block as one row: seconds are their mean, what else is the same in all."""
    runs = frame.groupby(["process", "block"])
    return runs.first().assign(seconds=runs["seconds"].mean())


def blocks(point: Point, clock: str, entrants: tuple[str, ...], column: str = "seconds") -> pd.DataFrame:
    """A row a whole block, indexed by process and block, a column an entrant. One cell only: blocks are not pooled over seeds."""
    comparable(point.cells)
    if len(point.cells) > 1:
        if not any(cell.ran("latency") for cell in point.cells):
            raise NotMeasured(f"{point.label} was not timed: latency was off")
        raise Refused(f"{point.label}: timings of {len(point.cells)} training seeds are not pooled; name a variant")
    cell = point.first
    found = pd.DataFrame({name: _rows(cell, name, clock)[column] for name in dict.fromkeys(entrants)}).dropna()
    if found.empty:
        raise Refused(f"{cell.facts['folder']} has no whole block of {' and '.join(entrants)}")
    return found


def setting(cells: Iterable[Cell]) -> str:
    """What stands beside every speed-up of these cells: batch, hop, s (new tokens that the receiver read of its own), model, place."""
    cells = list(cells)
    new = sorted({int(count) for cell in cells for count in cell.latency.get("new_tokens", [])})
    where = sorted({_where(cell) for cell in cells})
    return f"batch 1, last hop, s = {' or '.join(map(str, new))}; {'; '.join(where)}"


def _where(cell: Cell) -> str:
    who, threads = cell.meta["identity"], cell.meta.get("threads")
    model = f"{cell.facts.get('model.name')}{' with random weights' if cell.facts.get('load') == 'dummy' else ''}"
    return f"{model}, {who['dtype']}, {who['device']}" + (
        f", {threads} thread{'s' if threads != 1 else ''}" if threads and not cell.on_cuda else ""
    )


def groups(values: pd.Series) -> list[NDArray[np.float64]]:
    """The values of each process."""
    return [part.to_numpy() for _, part in values.groupby(level="process", sort=True)]


def _estimate(point: Point, values: pd.Series, log: bool = False, note: str = "") -> Estimate:
    processes = groups(values)
    ends = [float(values.mean()), *bootstrap(processes, by_size=True)]
    centre, *interval = map(math.exp, ends) if log else ends
    few = f"{len(processes)} of {PROCESSES} {FEW}" if len(processes) < PROCESSES else ""
    low, high = interval if len(values) > 1 else (None, None)
    return Estimate(centre, low, high, len(values), point.cells, "; ".join(filter(None, (note, few))))


def seconds(point: Point, clock: str) -> Estimate:
    """The clock's mean over blocks."""
    return _estimate(point, blocks(point, clock, (point.entrant,))[point.entrant])


def _limits(point: Point, clock: str, name: str) -> pd.Series:
    """A block's limit."""
    return blocks(point, clock, (name,), "limit_s")[name]


def limit(point: Point, clock: str) -> Estimate:
    """The least time that the measured rates allow, mean over blocks."""
    found = _limits(point, clock, point.entrant)
    return Estimate(float(found.mean()), None, None, len(found), point.cells)


def held(point: Point) -> Estimate:
    """The length of the prefix that the receiver held, in tokens: words may be cut into others than were said."""
    found = blocks(point, "handoff", (point.entrant,), "prefix_tokens")[point.entrant]
    return Estimate(float(found.mean()), None, None, len(found), point.cells)


def eta(point: Point, clock: str, entrant: str | None = None) -> Estimate:
    """limit / measured."""
    name = entrant or point.entrant
    spent = blocks(point, clock, (name,))[name]
    return Estimate(float(_limits(point, clock, name).mean() / spent.mean()), None, None, len(spent), point.cells)


def etas(point: Point, clock: str, other: str = REFERENCE) -> str:
    """What stands beside a ratio told alone: how near their limits both sides are, by the clock whose limit is known."""
    try:
        mine, others = (eta(point, _whole(clock), name).value for name in (point.entrant, other))
    except Refused:
        return ", eta not measured"
    return f", eta {mine:.2f} against {others:.2f}"


def speedup(point: Point, clock: str) -> Estimate:
    """exp of the mean over blocks of log(T_reprefill / T). On a GPU where re-prefill is far from its limit, T_limit of re-prefill
    takes its place, and the note says so. Raises Refused where A/A was unsound or not measured."""
    found = blocks(point, clock, (point.entrant, REFERENCE))
    _sound(point, clock)
    if (near := _slack(point, clock)) is not None:
        bound = _limits(point, _whole(clock), REFERENCE)
        note = f"against the limit of re-prefill, whose eta is {near:.2f}"
        return _estimate(point, np.log(bound / found[point.entrant]).dropna(), log=True, note=note)
    return _estimate(point, np.log(found[REFERENCE] / found[point.entrant]), log=True)


def self_ratio(point: Point, clock: str) -> tuple[float, float]:
    """A/A by the clock: the 95% interval of the log ratio of one strategy, run twice in a block, to itself. Its ends are the wider ones
    of a t interval over blocks, which few blocks want, and of the ratios' own bootstrap, which knows processes.

    Raises Refused where it was not measured.
    """
    return _self_ratio(point.first, clock)


@cache
def _self_ratio(cell: Cell, clock: str) -> tuple[float, float]:
    frame = cell.latency
    own = frame[(frame.clock == clock) & ~frame.fell_back & frame.strategy.isin(frame.strategy[frame.aa])]
    once, again = (_means_of_blocks(own[own.aa == second])["seconds"] for second in (False, True))
    ratio = np.log(again / once).dropna()
    if len(ratio) < 2:
        raise Refused(
            f"{cell.facts['folder']}: one strategy was never timed against itself in two blocks (gates=full latency.repeats=8 do so), "
            "so no ratio of it is published"
        )
    blocks_alone = stats.t.interval(0.95, len(ratio) - 1, loc=ratio.mean(), scale=stats.sem(ratio))
    low, high = zip(blocks_alone, bootstrap(groups(ratio), by_size=True), strict=True)
    return float(min(low)), float(max(high))


def leads(log_ratio: pd.Series, floor: float) -> bool:
    """Whether a log ratio over blocks, either way, is told apart from what one strategy differs from itself (A/A)."""
    low, high = bootstrap(groups(log_ratio), by_size=True)
    return low > floor or high < -floor


def _sound(point: Point, clock: str) -> None:
    """Raises Refused where one strategy, run twice in a block, differed from itself by the clock, or was not run twice."""
    low, high = self_ratio(point, clock)
    if not -AA_LIMIT <= low <= high <= AA_LIMIT:
        folder = point.first.facts["folder"]
        raise Refused(
            f"{folder}: A/A is unsound by the {clock} clock ({low:+.4f} to {high:+.4f} in log ratio), so no ratio of it is published"
        )


def _whole(clock: str) -> str:
    """The clock whose limit is known: a hand-off of re-prefill is nothing but its pass."""
    return "host" if clock == "handoff" else clock


def _slack(point: Point, clock: str) -> float | None:
    """eta of re-prefill on a GPU where it is too far from its limit to be a reference; None elsewhere."""
    near = eta(point, _whole(clock), REFERENCE).value if point.first.on_cuda else None
    return near if near is not None and near < ETA_LIMIT else None


def faster(point: Point, clock: str, reference: str) -> tuple[Estimate, float]:
    """speedup over another entrant of the same blocks, and the p of its log ratio over processes (t test); 1 with a single one.

    Raises Refused where `speedup` would, and where re-prefill is no reference.
    """
    found = blocks(point, clock, (point.entrant, reference))
    _sound(point, clock)
    if reference == REFERENCE and (near := _slack(point, clock)) is not None:
        raise Refused(f"{point.first.facts['folder']}: re-prefill runs at {near:.2f} of its limit, too far for a reference")
    ratio = np.log(found[reference] / found[point.entrant])
    means = np.array([g.mean() for g in groups(ratio)])
    p = float(stats.ttest_1samp(means, 0).pvalue) if len(means) > 1 else 1.0
    return _estimate(point, ratio, log=True), p


def stages(point: Point) -> tuple[dict[str, float], float]:
    """Mean seconds of each stage, from the repeats that carried them, and the share of the hand-off that none explains.

    Raises Refused where, on a GPU, they do not add up to the hand-off.
    """
    found = blocks(point, "stages", (point.entrant,), "stages_s")[point.entrant]
    rows = [row if isinstance(row, dict) else nested(row, point.first.facts["folder"]) for row in found]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    residual = 1 - sum(means.values()) / seconds(point, "handoff").value
    if point.first.on_cuda and abs(residual) > RESIDUAL_LIMIT:
        raise Refused(f"{point.first.facts['folder']}: its stages leave {residual:+.1%} of the hand-off of {point.entrant} unexplained")
    return means, residual
