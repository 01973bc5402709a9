"""Stages on top of each other, and the map of who hands over fastest."""

from __future__ import annotations

from typing import Any

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import paying, regimes, style, timing
from analysis.errors import Refused
from analysis.estimates import Point, number
from analysis.panel import Panel
from avpbench.summary import REFERENCE

_BANDWIDTHS = [10 ** (6 + k / 20) for k in range(121)]  # 1 Mbit/s to 1 Tbit/s
_BLANK: dict[str, Any] = {"facecolor": "white", "edgecolor": "#777777", "linewidth": 0.6}


def stack(panel: Panel, ax: Any) -> None:
    """A bar a line at the spec's one x, its stages on top of each other."""
    spec, found = panel.spec, {}
    for label, own in spec.lines.items():
        point = panel.point(label, own, spec.x.values[0])
        if point is None:
            continue
        try:
            found[label], residual = timing.stages(point)
            panel.remarks.append(f"Stages leave {residual:+.1%} of {label} unexplained.")
            panel.nums.append(len(timing.blocks(point, "stages", (point.entrant,))))
        except Refused as error:
            panel.refused.append(f"{label}: {error}")
    names = list(dict.fromkeys(name for spent in found.values() for name in spent))
    base = dict.fromkeys(found, 0.0)
    for place, name in enumerate(names):
        heights = [style.drawn(1000 * found[label].get(name, 0.0)) for label in found]
        hatch, colour = style.HATCHES[place % len(style.HATCHES)], style.COLOURS[(place + 1) % len(style.COLOURS)]  # black last
        ax.bar(list(found), heights, bottom=list(base.values()), label=name, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
        base = {label: base[label] + h for label, h in zip(found, heights, strict=True)}
    ax.set_ylabel("stages of the hand-off (ms)")
    ax.set_xlabel(f"{spec.x.label} {spec.x.values[0]}")
    ax.tick_params(axis="x", labelsize=7)
    if names:
        ax.legend()


def winners(panel: Panel, ax: Any) -> None:
    """Who hands over fastest at each x and bandwidth, blank where no lead is shown; break-even with its interval."""
    spec = panel.spec
    labels, bounded, painted = list(spec.lines), set(), set()
    for column, x in enumerate(spec.x.values):
        found = {label: point for label, own in spec.lines.items() if (point := panel.point(label, own, x))}
        timed = {label: point for label, point in found.items() if panel.estimate("handoff_s", point)}
        bounded |= {label for label, point in timed.items() if _break_even(panel, ax, column, label, point)}
        try:
            for low, high, label in regimes.fastest(timed, _BANDWIDTHS):
                painted.add(label)
                ax.bar(column, high - low, bottom=low, width=1, **(_BLANK if label is None else _fill(labels.index(label))))
        except Refused as error:
            panel.refused.append(f"{spec.x.label} {x}: {error}")
    fills = [Patch(label=f"{label} is fastest", **_fill(k)) for k, label in enumerate(labels) if label in painted]
    fills += [Patch(label="no lead is shown", **_BLANK)] if None in painted else []
    bounds = [Line2D([], [], **_mark(k), label=f"{label} as re-prefill") for k, label in enumerate(labels) if label in bounded]
    ax.legend(handles=fills + bounds, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    ax.set_yscale("log")
    ax.set_ylim(_BANDWIDTHS[0], _BANDWIDTHS[-1])
    ax.set_xticks(range(len(spec.x.values)), [str(v) for v in spec.x.values])
    ax.set_xlabel(spec.x.label)
    ax.set_ylabel("bandwidth (bit/s)")


def _break_even(panel: Panel, ax: Any, column: int, label: str, point: Point) -> bool:
    """Marks the bandwidth at which the line is as fast as re-prefill; whether there is one."""
    try:
        if point.entrant == REFERENCE:
            achieved = number(paying.achieved_flop_per_s(point) / 1e9, "")
            panel.remarks.append(f"F = {achieved} GFLOP/s at {point.first.facts[panel.spec.x.fact]}.")
            return False
        found = paying.break_even(point)
    except Refused as error:
        panel.refused.append(f"{label}: {error}")
        return False
    x, value = point.first.facts[panel.spec.x.fact], found.break_even_bps
    if value is None:
        panel.remarks.append(f"{label} beats re-prefill at {x}: {found.break_even}.")
        return False
    if value < _BANDWIDTHS[0]:
        panel.remarks.append(f"{label} breaks even at {x} below the axis.")
        return False
    place = list(panel.spec.lines).index(label)
    low = 0.0 if found.break_even_low_bps is None else found.break_even_low_bps
    top = _BANDWIDTHS[-1] * 10 if found.break_even_high_bps is None else found.break_even_high_bps
    ax.errorbar(
        [column + 0.12 * (place - 1)], [style.drawn(value)], yerr=[[style.drawn(value - low)], [style.drawn(top - value)]],
        capsize=2, **_mark(place),
    )  # fmt: skip
    return True


def _mark(place: int) -> dict[str, Any]:
    return {"marker": style.MARKERS[place], "color": "black", "markersize": 4, "linestyle": ""}


def _fill(place: int) -> dict[str, Any]:
    return {"facecolor": style.COLOURS[1:][place % 7], "alpha": 0.55, "hatch": style.HATCHES[place % 8], "edgecolor": "white"}
