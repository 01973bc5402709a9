"""Break-even: the bandwidth at which a hand-off and re-prefill take equally long. Pure arithmetic over latency records.

T(B) = T without transfer + what the transfer takes at B bits/s: 8 W / B, and on a link that streams (the receiver decodes
while bytes arrive) never less than the link's own time without a limit. Equal: T_s(B) = T_re(B); where nothing is
streamed that is B* = 8 (W_s - W_re) / (T_re - T_s) (docs/metrics.md).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from avpbench.limits import Work, pass_flop
from avpbench.records import LatencyRecord, averaged, counted_blocks

_RESAMPLES = 1000
Verdict = Literal["above", "below", "always", "never"]


@final
@dataclass(frozen=True, slots=True)
class BreakEven:
    """Where the hand-off beats re-prefill: `above` or `below` a bandwidth, `always` or `never`; None: not measured.

    `break_even_bps` is the highest bandwidth at which both take equally long, None where there is none. `low` and `high`
    are its 95% interval (bootstrap of processes, then blocks); None on one side: no finite bound there.
    `reprefill_flops` is F, what re-prefill achieved on this device, FLOP/s: the break-even describes the device.
    """

    break_even: Verdict | None = None
    break_even_bps: float | None = None
    break_even_low_bps: float | None = None
    break_even_high_bps: float | None = None
    reprefill_flops: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Side:
    """One way to hand over: seconds without transfer, bytes that cross, seconds that the link takes without a limit."""

    seconds: float
    num_bytes: float
    floor_s: float

    def at(self, x: float) -> float:
        """Its seconds at 1 / x bits a second."""
        return self.seconds + max(8 * self.num_bytes * x, self.floor_s)


def solve(ours: Side, theirs: Side) -> tuple[Verdict, float | None]:
    """Where ours is the faster. Each side's time is a line over x = 1 / B with one bend, so the gap has at most two bends."""

    def gap(x: float) -> float:
        return ours.at(x) - theirs.at(x)

    bends = sorted({0.0, *(side.floor_s / (8 * side.num_bytes) for side in (ours, theirs) if side.num_bytes)})
    slope = 8 * (ours.num_bytes - theirs.num_bytes)
    ahead, x = gap(0.0) < 0, math.inf
    for left, right in itertools.pairwise(bends):
        if (gap(right) < 0) != ahead:
            x = left + (right - left) * gap(left) / (gap(left) - gap(right))
            break
    else:
        if slope and (slope > 0) == ahead:
            x = bends[-1] - gap(bends[-1]) / slope
    if x == 0:  # equal without a limit, and faster under every one
        return "always", None
    if x == math.inf:
        return ("always" if ahead else "never"), None
    return ("above" if ahead else "below"), 1 / x


def measure(latency: Sequence[LatencyRecord], strategy: str, reference: str, limited: bool, work: Work | None) -> BreakEven:
    """The break-even of a strategy's label against the reference's, over blocks that hold both; empty without such blocks.

    `limited`: the link was held to a bandwidth. Without `work` (the model's shape) there is no F.
    """
    blocks = counted_blocks(latency, {(strategy, False), (reference, False)})
    if not blocks or strategy == reference:
        return BreakEven()
    rows = averaged([r for r in latency if r.block in blocks and not r.aa])
    sides = {block: tuple(_side(rows, block, name, limited) for name in (strategy, reference)) for block in blocks}
    verdict, rate = solve(*_means([sides[block] for block in sorted(blocks)]))
    processes: dict[str, list[int]] = {}
    for r in rows:
        if r.block not in processes.setdefault(r.process, []):
            processes[r.process].append(r.block)
    rng, found = random.Random(0), []
    for _ in range(_RESAMPLES):
        drawn = [b for p in rng.choices(list(processes), k=len(processes)) for b in rng.choices(processes[p], k=len(processes[p]))]
        found.append(_bound(*solve(*_means([sides[b] for b in drawn])), most=verdict == "below"))
    found.sort()
    low, high = found[round(0.025 * (_RESAMPLES - 1))], found[round(0.975 * (_RESAMPLES - 1))]
    bounds = [bound if math.isfinite(bound) else None for bound in (low, high)]
    return BreakEven(verdict, rate, bounds[0], bounds[1], achieved_flop_per_s(rows, reference, work) if work else None)


def achieved_flop_per_s(rows: Sequence[LatencyRecord], reference: str, work: Work) -> float:
    """F: the operations of the reference's passes over the seconds of its device clock, in these rows."""
    device = [r for r in rows if (r.strategy, r.clock, r.aa) == (reference, "device", False)]
    return sum(pass_flop(work, 0, r.prefix_tokens + r.new_tokens) for r in device) / sum(r.seconds for r in device)


def _side(rows: Sequence[LatencyRecord], block: int, strategy: str, limited: bool) -> Side:
    """One block's. Where the link was held to a bandwidth, its own time is not known, and counts as none."""
    mine = {r.clock: r for r in rows if (r.block, r.strategy) == (block, strategy)}
    transfer_s = (mine["stages"].stages_s or {}).get("transfer", 0.0)
    return Side(mine["handoff"].seconds - transfer_s, mine["handoff"].wire_bytes, 0.0 if limited else transfer_s)


def _means(pairs: Sequence[tuple[Side, ...]]) -> list[Side]:
    count = len(pairs)
    return [
        Side(sum(s.seconds for s in ours) / count, sum(s.num_bytes for s in ours) / count, sum(s.floor_s for s in ours) / count)
        for ours in zip(*pairs, strict=True)
    ]


def _bound(verdict: Verdict, rate: float | None, most: bool) -> float:
    """On one scale: where `above` is wanted, always is 0 and never is infinite; where `below` is (`most`), the reverse."""
    if rate is not None:
        return rate
    return math.inf if (verdict == "never") != most else 0.0
