"""How figures look and how they are written: the same bytes each time, readable in grey and by the colour-blind."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

# Okabe and Ito's colours, dark to light and back so that neighbours differ in grey too; a marker and a dash beside each.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 3)))
HATCHES = ("", "///", "\\\\\\", "...", "xxx", "---", "ooo", "+++")
DIGITS = 6  # of what is drawn: another machine's last bits change no figure
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9, "axes.grid": True, "grid.alpha": 0.3, "legend.fontsize": 7.5,
    "legend.framealpha": 0.9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "avpbench", "svg.fonttype": "path",
    "figure.dpi": 120, "savefig.dpi": 120, "lines.markersize": 4.5, "hatch.linewidth": 0.5, "path.simplify": False,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Draw within this."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)  # type: ignore[arg-type]  # it wants the keys spelled out
        yield
        pyplot.close("all")


def look(place: int) -> dict[str, Any]:
    """The colour, marker and dash of the line at this place."""
    k, again = place % len(COLOURS), place // len(COLOURS)
    return {"color": COLOURS[k], "marker": MARKERS[(k + 3 * again) % len(MARKERS)], "linestyle": DASHES[(k + again) % len(DASHES)]}


def drawn(value: float) -> float:
    """The value as it is drawn."""
    return float(f"{value:.{DIGITS - 1}e}")


def files(figure: Any, name: str) -> dict[str, bytes]:
    """The figure as NAME.svg and NAME.png, without dates or versions."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is done; without this, each format would do it again
    found = {}
    for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        out = io.BytesIO()
        figure.savefig(out, format=kind, metadata=metadata)
        found[f"{name}.{kind}"] = out.getvalue()
    return found
