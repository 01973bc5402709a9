"""Figures from their declarations: what is there is drawn, and what is missing or refused is said in the figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from matplotlib import pyplot

from analysis import style
from analysis.barplots import stack, winners
from analysis.cells import ORGANISM, Cell, Where
from analysis.declared import FigureSpec
from analysis.lineplot import lines
from analysis.panel import Panel

_WIDTH, _LINES = 80, 6  # of what is missing, letters a panel and lines
_KINDS = {"lines": lines, "stack": stack, "map": winners}


@final
@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure's files (none where nothing could be drawn), its caption, and what is not in it."""

    name: str
    files: dict[str, bytes]
    caption: str
    gaps: list[str]
    cells: list[Cell]


def draw(spec: FigureSpec, cells: Sequence[Cell], where: Where, run: str) -> Drawn:
    """Draws every panel. Cells that are absent are named in the figure and in `gaps`, with the command that makes them."""
    labels = dict.fromkeys(label for one in spec.panels for label in (*one.lines, *one.levels))
    places = {label: place for place, label in enumerate(labels)}  # one look a label, whatever the panel
    panels = [Panel(one, cells, where, places) for one in spec.panels]
    with style.styled():
        figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.4), squeeze=False, layout="constrained")
        for panel, ax in zip(panels, axes[0], strict=True):
            _KINDS[panel.spec.kind](panel, ax)
            ax.set_title(panel.spec.title)
        gaps = _gaps(panels, run)
        if gaps:
            said = textwrap.wrap("; ".join(gaps), _WIDTH * len(panels), max_lines=_LINES, placeholder=" ... (all of it in BENCHMARKS.md)")
            figure.supxlabel("\n".join(said), fontsize=6.5, color="#555555")
        nums = [n for panel in panels for n in panel.nums]
        files = style.files(figure, spec.name) if nums else {}
    cells = list(dict.fromkeys(cell for panel in panels for cell in panel.drawn))
    return Drawn(spec.name, files, _caption(spec, panels, nums), gaps, cells)


def _gaps(panels: Sequence[Panel], run: str) -> list[str]:
    together: dict[tuple[str, str], list[str]] = {}  # labels that are absent from the same panels, at the same places
    for label in dict.fromkeys(label for panel in panels for label in panel.absent):
        without = [panel for panel in panels if label in panel.absent]
        elsewhere = any(label in panel.spec.lines and panel not in without for panel in panels)
        titles = " and ".join(repr(panel.spec.title) for panel in without) if elsewhere else ""
        places = dict.fromkeys(place for panel in without for place in panel.absent[label] if place)
        together.setdefault((titles, ", ".join(places)), []).append(label)
    parts = [
        " and ".join(labels) + (f" in {titles}" if titles else "") + (f" at {places}" if places else "")
        for (titles, places), labels in together.items()
    ]
    gaps = [f"missing: {'; '.join(parts)}; run: {run}"] if parts else []
    return gaps + list(dict.fromkeys(f"refused: {text}" for panel in panels for text in panel.refused))


def _caption(spec: FigureSpec, panels: Sequence[Panel], nums: Sequence[int]) -> str:
    if not nums:
        return spec.caption
    count = f"{min(nums)}" if min(nums) == max(nums) else f"{min(nums)} to {max(nums)}"
    organisms = [f"{ORGANISM[0].upper()}{ORGANISM[1:]}."] if any(c.facts.get("model.zoo") for panel in panels for c in panel.drawn) else []
    notes: dict[str, dict[str, None]] = {}
    for panel in panels:
        for note, labels in panel.notes.items():
            notes.setdefault(note, {}).update(dict.fromkeys(labels))
    said = [f"{', '.join(labels)}: {note}." for note, labels in notes.items()]
    remarks = " ".join(dict.fromkeys([*organisms, *said, *(text for panel in panels for text in panel.remarks)]))
    return f"{spec.caption} n = {count} (problems, or blocks where seconds are shown) a point; bars are 95% intervals. {remarks}".strip()
