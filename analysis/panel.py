"""One panel of a figure while it is drawn: where its cells are, what is absent, and how much the rest rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from analysis.cells import Cell, Place, Where, in_place, usual_place
from analysis.declared import PanelSpec
from analysis.errors import Missing, Refused
from analysis.estimates import Estimate, Point, point_of
from analysis.metrics import metric


@final
@dataclass(eq=False, slots=True)
class Panel:
    """`places` says, by label, which look it has; `absent` holds, by line, where it has no cell; `nums` how many problems or blocks each
    estimate rests on."""

    spec: PanelSpec
    cells: Sequence[Cell]
    where: Where
    places: Mapping[str, int]
    absent: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    nums: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    drawn: list[Cell] = field(default_factory=list)

    @property
    def place(self) -> Place:
        """Where most of the study's cells ran: what a figure draws beside each other ran there."""
        return usual_place(self.cells, self.timed)

    @property
    def timed(self) -> bool:
        """Whether it draws seconds or ratios of them."""
        return self.spec.kind != "lines" or metric(self.spec.metric).unit in ("s", "x")

    def point(self, label: str, own: Where, x: object = None) -> Point | None:
        """The cells of a line at x; None, noted, where there are none."""
        chosen = {**self.where, **self.spec.where, **({} if x is None else {self.spec.x.fact: x}), **own}
        entrant = chosen.pop("entrant", None)
        try:
            found = point_of(self.cells, label, chosen, entrant)
            in_place(found.cells, self.place, self.timed)
            self.drawn += [cell for cell in found.cells if cell not in self.drawn]
            return found
        except Missing:
            self.absent.setdefault(label, []).append("" if x is None else str(x))
        except Refused as error:
            self.refused.append(str(error))
        return None

    def estimate(self, name: str, point: Point, against: Point | None = None) -> Estimate | None:
        """A metric of the point; None, noted, where it is refused."""
        try:
            found = metric(name).compute(point, against)
        except Refused as error:
            self.refused.append(f"{point.label}: {error}")
            return None
        self.nums.append(found.num)
        if found.note:
            self.remarks.append(f"{point.label}: {found.note}.")
        return found
