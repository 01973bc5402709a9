"""What a number is: an estimate with its interval and the cells that it comes from; and what a point of a table or figure is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from analysis.cells import Cell, Where
from analysis.errors import Missing, Refused
from avpbench.report import bytes_text

DRAWS = 8  # of a random controller, at least


@final
@dataclass(frozen=True, eq=False, slots=True)
class Point:
    """Cells that are one thing but for their training seed (`variant`) and a random controller's own (`draw`).

    `entrant` is whose latency is meant in blocks that several strategies share.
    """

    label: str
    cells: tuple[Cell, ...]
    entrant: str

    @property
    def by_seed(self) -> dict[Any, list[Cell]]:
        """The cells of each training seed."""
        found: dict[Any, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.facts.get("variant"), []).append(cell)
        return found

    @property
    def first(self) -> Cell:
        return self.cells[0]


@final
@dataclass(frozen=True, eq=False, slots=True)
class Estimate:
    """A value, its 95% interval where it has one, how many problems or blocks it rests on, and its cells."""

    value: float
    low: float | None
    high: float | None
    num: int
    cells: tuple[Cell, ...]
    note: str = ""


def point_of(cells: Sequence[Cell], label: str, where: Where, entrant: str | None = None, run: str = "") -> Point:
    """The cells that match, which may differ in `variant` and `draw` alone.

    Raises Missing where there are none, or not every variant that `where` lists, or of a random controller fewer than DRAWS in one of
    them; and Refused where they are several things.
    """
    found = [cell for cell in cells if cell.matches(where)]
    asked = ", ".join(f"{key}={value}" for key, value in where.items())
    variants = [cell.facts.get("variant") for cell in found]
    wanted = where.get("variant")
    absent = [v for v in wanted if v not in variants] if isinstance(wanted, list) else []
    if not found or absent:
        what = f"{asked}" + (f" (variant {', '.join(map(str, absent))})" if found else "")
        raise Missing(f"missing: {label} ({what})" + (f"; run: {run}" if run else ""))
    if len({(cell.facts.get("variant"), cell.facts.get("draw")) for cell in found}) != len(found):
        raise Refused(f"{label}: {len(found)} cells match {asked}: {', '.join(str(c.facts['folder']) for c in found[:4])}; name more")
    point = Point(label, tuple(found), entrant or found[0].label)
    if "draw" not in where:
        _require_draws(point, asked, run)
    return point


def _require_draws(point: Point, asked: str, run: str) -> None:
    for variant, cells in point.by_seed.items():
        drawn = sum(cell.facts.get("draw") is not None for cell in cells)
        if 0 < drawn < DRAWS:
            which = f"{drawn} of {DRAWS} draws" + ("" if variant is None else f" in training seed {variant}")
            raise Missing(f"missing: {point.label} ({asked}): {which}" + (f"; run: {run}" if run else ""))


def number(value: float | None, unit: str) -> str:
    """A value as text: unit is one of %, points, s, bytes, bits, x, eta, nats, count."""
    if value is None:
        return "-"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if abs(value) < 1 else f"{value:.2f} s"
    if unit == "bytes":
        return bytes_text(value)
    kinds = {
        "%": f"{100 * value:.1f}%",
        "points": f"{100 * value:+.1f}",
        "bits": f"{value:.2f}",
        "x": f"{value:.2f}x",
        "eta": f"{value:.2f}",
    }
    return kinds.get(unit, f"{value:.4g}" if unit == "nats" else f"{value:,.0f}" if unit == "count" else f"{value:.3g}")


def spoken(estimate: Estimate, unit: str) -> str:
    """A value with its interval, as text."""
    shown = number(estimate.value, unit)
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} [{_bare(estimate.low, unit)}, {_bare(estimate.high, unit)}]"


def _bare(value: float, unit: str) -> str:
    text = number(value, unit)
    return text.removesuffix("%").removesuffix("x") if unit in ("%", "x") else text
