"""One panel of a figure while it is drawn: where its cells are, what is absent, and how much the rest rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from analysis.cells import Cell, Place, Where, in_place, usual_place
from analysis.declared import PanelSpec
from analysis.errors import Missing, Refused
from analysis.estimates import Estimate, Point, point_of
from analysis.metrics import metric


@final
@dataclass(eq=False)
class Panel:
    """`places` says, by label, which look it has; `absent` holds, by line, where it has no cell; `nums` how many problems or blocks each
    estimate rests on; `notes` holds, by what is to be said of estimates, their lines."""

    spec: PanelSpec
    cells: Sequence[Cell]
    where: Where
    places: Mapping[str, int]
    absent: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    nums: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    drawn: list[Cell] = field(default_factory=list)

    @cached_property
    def place(self) -> Place:
        """Where most of the cells ran that it asks for: what it draws beside each other ran there, wherever the study's others did."""
        spec = self.spec
        asked = [self._chosen(own, spec.x.values) for own in spec.lines.values()]
        asked += [self._chosen(own, None) for own in spec.levels.values()]
        asked += [self._chosen({**own, **spec.against}, spec.x.values) for own in spec.lines.values()] if spec.against is not None else []
        return usual_place([cell for cell in self.cells if any(map(cell.matches, asked))], self.timed)

    @property
    def timed(self) -> bool:
        """Whether it draws seconds or ratios of them."""
        return self.spec.kind != "lines" or metric(self.spec.metric).unit in ("s", "x")

    def point(self, label: str, own: Where, x: object = None) -> Point | None:
        """The cells of a line at x; None, noted, where there are none."""
        entrant = {**self.where, **self.spec.where, **own}.get("entrant")
        try:
            found = point_of(self.cells, label, self._chosen(own, x), entrant)
            in_place(found.cells, self.place, self.timed)
            self.drawn += [cell for cell in found.cells if cell not in self.drawn]
            return found
        except Missing:
            self.absent.setdefault(label, []).append("" if x is None else str(x))
        except Refused as error:
            self.refused.append(str(error))
        return None

    def _chosen(self, own: Where, x: object) -> Where:
        """What the cells of a line match: at x, or at every x of a list; None: of a level, which has none."""
        at = {} if x is None else {self.spec.x.fact: x}
        return {key: value for key, value in {**self.where, **self.spec.where, **at, **own}.items() if key != "entrant"}

    def estimate(self, name: str, point: Point, against: Point | None = None) -> Estimate | None:
        """A metric of the point; None, noted, where it is refused."""
        try:
            found = metric(name).compute(point, against)
        except Refused as error:
            self.refused.append(f"{point.label}: {error}")
            return None
        self.nums.append(found.num)
        if found.note:
            self.notes.setdefault(found.note, []).append(point.label)
        return found
