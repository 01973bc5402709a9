"""Lines over an axis, levels across and marks upright."""

from __future__ import annotations

from typing import Any

from analysis import style
from analysis.cells import Where
from analysis.estimates import Estimate
from analysis.metrics import metric
from analysis.panel import Panel

_LIMIT = "the device's limit"


def lines(panel: Panel, ax: Any) -> None:
    """A line for each of the spec's, over x; levels across, marks upright."""
    spec = panel.spec
    for label, own in spec.lines.items():
        found: list[tuple[float, Estimate, float | None]] = []
        for x in spec.x.values:
            point = panel.point(label, own, x)
            against = panel.point(f"{label} (against)", {**_sided(own), **spec.against}, x) if point and spec.against is not None else None
            if point is None or (spec.against is not None and against is None):
                continue
            estimate = panel.estimate(spec.metric, point, against)
            at = panel.estimate(spec.x.metric, point) if spec.x.metric else None
            bound = panel.estimate(spec.limit, point) if spec.limit else None
            if estimate and (at or not spec.x.metric):
                found.append((at.value if at else float(x), estimate, bound.value if bound else None))
        if found:
            _line(ax, label, sorted(found, key=lambda f: f[0]), panel.places[label])
    for label, own in spec.levels.items():
        point = panel.point(label, own)
        estimate = panel.estimate(spec.metric, point) if point else None
        if estimate:
            _level(ax, label, estimate, panel.places[label])
    for label, places in spec.marks.items():
        _mark(ax, label, places)
    _finish(panel, ax)


def _sided(own: Where) -> Where:
    return {key: value for key, value in own.items() if key != "entrant"}


def _line(ax: Any, label: str, found: list[tuple[float, Estimate, float | None]], place: int) -> None:
    xs, ys = [style.drawn(x) for x, _, _ in found], [style.drawn(e.value) for _, e, _ in found]
    below = [style.drawn(max(0.0, e.value - e.low)) if e.low is not None else 0.0 for _, e, _ in found]
    above = [style.drawn(max(0.0, e.high - e.value)) if e.high is not None else 0.0 for _, e, _ in found]
    ax.errorbar(xs, ys, yerr=[below, above], label=label, capsize=2, linewidth=1.2, **style.look(place))
    bounds = [(x, style.drawn(b)) for x, (_, _, b) in zip(xs, found, strict=True) if b is not None]
    if bounds:
        ax.plot(
            *zip(*bounds, strict=True),
            color=style.look(place)["color"],
            linewidth=0.7,
            linestyle=":",
            label=None if _LIMIT in ax.get_legend_handles_labels()[1] else _LIMIT,
        )


def _level(ax: Any, label: str, estimate: Estimate, place: int) -> None:
    look = style.look(place)
    ax.axhline(style.drawn(estimate.value), color=look["color"], linestyle=look["linestyle"], linewidth=1, label=label)
    if estimate.low is not None and estimate.high is not None:
        ax.axhspan(style.drawn(estimate.low), style.drawn(estimate.high), color=look["color"], alpha=0.12, linewidth=0)


def _mark(ax: Any, label: str, at: list[float]) -> None:
    if len(at) == 2:
        ax.axvspan(at[0], at[1], color="#999999", alpha=0.2, linewidth=0)
    else:
        for x in at:
            ax.axvline(x, color="#999999", linewidth=0.8, linestyle=":")
    ax.annotate(label, (at[0], 1), xycoords=("data", "axes fraction"), fontsize=6, rotation=90, va="top", ha="right", color="#444444")


def _finish(panel: Panel, ax: Any) -> None:
    spec = panel.spec
    ax.set_xlabel(spec.x.label)
    ax.set_ylabel(metric(spec.metric).axis)
    ax.set_xscale(spec.x.scale)
    ax.set_yscale(spec.scale)
    if spec.x.scale == "log" and not spec.x.metric:
        ax.set_xticks(spec.x.values, [str(v) for v in spec.x.values])
        ax.xaxis.minorticks_off()
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)  # below: nothing drawn is covered
