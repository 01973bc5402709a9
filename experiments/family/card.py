"""The card's tables of accuracies, goals and steps (avpbench/zoo/README.md), from the published records.

python experiments/family/card.py          # writes them
python experiments/family/card.py check    # exits 1 where the card says something else
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from analysis import quality
from analysis.cells import Cell, cells_of
from analysis.estimates import Estimate, point_of, spoken
from analysis.studies import load
from avpbench.aggregate import wilson
from avpbench.tasks.wordmath import story

CARD = Path("avpbench/zoo/README.md")
TRAININGS = {"`tiny` 0": ("tiny", 0), "1": ("tiny", 1), "2": ("tiny", 2)}
TRAININGS |= {f"`{name}`": (name, 0) for name in ("tiny-large", "tiny-llama", "tiny-stress")}
_NOTE, _SUM = re.compile("<<(.*?)>>"), re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
_DONE = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
COLUMNS = ("tiny", "tiny-large", "tiny-llama", "tiny-stress")
PLAIN = {"repeat": True, "level": "standard", "question": "first", "context": 0}
ALONE, RAW = PLAIN | {"chain": 1}, PLAIN | {"chain": 4, "strategy": "raw"}
SPLIT, QUANTIZED = RAW | {"question": "split"}, {"strategy": "quantized"}


@final
@dataclass(frozen=True, slots=True)
class Goal:
    """`at least`, `at most` and `between` are of the accuracy; `within` k points: the difference's lower bound is above -k; `lost`
    or `above by` at least k points: the difference itself."""

    kind: str
    limits: tuple[float, ...]

    def missed(self, found: Estimate) -> bool:
        least, most = self.limits[0] / 100, self.limits[-1] / 100
        match self.kind:
            case "at least" | "above by":
                return found.value < least
            case "at most":
                return found.value > most
            case "between":
                return not least <= found.value <= most
            case "within":
                return found.low is None or found.low <= -least
            case "lost":
                return -found.value < least
        raise ValueError(self.kind)

    def __str__(self) -> str:
        if self.kind == "between":
            return f"{self.limits[0]:g} to {self.limits[1]:g}%"
        return f"{self.kind} {self.limits[0]:g}" + ("%" if self.kind in ("at least", "at most") else "")


@final
@dataclass(frozen=True, slots=True)
class Row:
    """What is shown of each member: an accuracy, or a difference from `against`; and the goals of those that have one."""

    label: str
    where: dict[str, Any]
    against: dict[str, Any] | None = None
    goals: dict[str, Goal] = field(default_factory=dict)


def _goals(kind: str, limits: tuple[float, ...], *large: Any) -> dict[str, Goal]:
    """`tiny`'s and `tiny-llama`'s goal, and tiny-large's (kind, limits) where it is another."""
    common = Goal(kind, limits)
    return {"tiny": common, "tiny-llama": common, "tiny-large": Goal(*large) if large else common}


CONTEXT = "tokens of context against none (points)"
ROWS = (
    Row("alone, `standard`", ALONE, goals=_goals("between", (75, 90), "at least", (85,))),
    Row("alone, `easy`", ALONE | {"level": "easy"}, goals=_goals("at least", (95,), "at least", (98,))),
    Row("chain of 4, `raw`, `standard`", RAW),
    Row("the same against alone (points)", RAW, ALONE, _goals("within", (3,), "within", (2,))),
    Row("chain of 4, `raw`, `repeat=false`: no agent says the plan again", RAW | {"repeat": False}),
    Row("chain of 4, `text`, `easy`", RAW | {"strategy": "text", "level": "easy"}, goals=_goals("at least", (85,), "at least", (92,))),
    Row(
        "`question=split`: `raw` against `question_only` (points)", SPLIT, SPLIT | {"strategy": "question_only"}, _goals("above by", (30,))
    ),
    Row("`blank`", RAW | {"strategy": "blank"}, goals=_goals("at most", (5,))),
    Row("chain of 4, `raw`, 2,048 tokens of context", RAW | {"context": 2048}),
    Row(f"2,048 {CONTEXT}", RAW | {"context": 2048}, RAW, _goals("within", (5,), "within", (3,))),
    Row(f"1,024 {CONTEXT}", RAW | {"context": 1024}, RAW),
    Row(f"4,096 {CONTEXT}", RAW | {"context": 4096}, RAW),
    Row("two code bits against raw (points)", RAW | QUANTIZED | {"budget_bits": "level2"}, RAW, {"tiny": Goal("lost", (10,))}),
    Row("eight code bits against raw (points)", RAW | QUANTIZED | {"budget_bits": "level8"}, RAW),
)


def _found(cells: Sequence[Cell], row: Row, which: dict[str, Any]) -> Estimate:
    mine = point_of(cells, row.label, row.where | which)
    if row.against is None:
        return quality.average(mine, "accuracy")
    return quality.contrast(mine, point_of(cells, row.label, row.against | which), "accuracy").effect


def _shown(cells: Sequence[Cell], row: Row, model: str) -> str:
    """One training's number, or each training's accuracy, or a difference over all trainings; bold where its goal is missed."""
    seeds = (0, 1, 2) if model == "tiny" and row.against is None else (None,)
    goal = row.goals.get(model)
    unit, words = "%" if row.against is None else "points", []
    for seed in seeds:
        found = _found(cells, row, {"model": model} | ({} if seed is None else {"variant": seed}))
        words.append(f"**{spoken(found, unit)}**" if goal is not None and goal.missed(found) else spoken(found, unit))
    return " / ".join(words) + (f" ({goal})" if goal is not None and goal != row.goals["tiny"] else "")


def goals(cells: Sequence[Cell]) -> list[str]:
    """The table of accuracies and differences."""
    lines = ["| | goal | `tiny` 0 / 1 / 2 | `tiny-large` (goal) | `tiny-llama` | `tiny-stress` |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        shown = " | ".join(_shown(cells, row, model) for model in COLUMNS)
        lines += [f"| {row.label} | {row.goals.get('tiny', '')} | {shown} |"]
    return lines


def _by_steps(cell: Cell) -> dict[int, tuple[int, int]]:
    """(right, all) of the problems with so many computed steps."""
    found: dict[int, tuple[int, int]] = {}
    task = cell.meta["config"]["task"]
    for name, right in zip(cell.samples.sample_id, cell.samples.correct, strict=True):
        steps = story(task["seed"], task["split"], int(name.rpartition("-")[2]), task["level"]).num_steps
        before = found.get(steps, (0, 0))
        found[steps] = before[0] + bool(right), before[1] + 1
    return found


def steps(cells: Sequence[Cell], level: str) -> list[str]:
    """The table of accuracies alone, by the computed steps of a problem."""
    counts, texts = {}, {}
    for name, (model, variant) in TRAININGS.items():
        point = point_of(cells, name, ALONE | {"level": level, "model": model, "variant": variant})
        quality.average(point, "accuracy")  # which refuses what may not be used
        counts[name], texts[name] = _by_steps(point.first), point.first.samples.completion.fillna("")
    lines = [f"| `{level}`, steps | n | " + " | ".join(counts) + " |", "|---" * (2 + len(counts)) + "|"]
    for number, (_, count) in sorted(next(iter(counts.values())).items()):
        lines.append(f"| {number} | {count} | " + " | ".join(_share(*found[number]) for found in counts.values()) + " |")
    shares = " | ".join(_share(sum(map(_miscalculates, said)), len(said)) for said in texts.values())
    lines.append(f"| a wrong calculation | {len(next(iter(texts.values())))} | {shares} |")
    return lines


def _miscalculates(said: str) -> bool:
    """Whether a calculator's note in it is wrong, or none."""
    return any((m := _SUM.fullmatch(note)) is None or _DONE[m[2]](int(m[1]), int(m[3])) != int(m[4]) for note in _NOTE.findall(said))


def _share(right: int, count: int) -> str:
    low, high = (100 * (end or 0.0) for end in wilson(right, count))
    return f"{100 * right / count:.0f} [{low:.0f}, {high:.0f}]"


def main() -> None:
    cells = cells_of(load("family"))
    tables = {"goals": goals(cells), "steps": [*steps(cells, "standard"), "", *steps(cells, "broad")]}
    told = CARD.read_text()
    fresh = told
    for name, lines in tables.items():
        begin, end = f"<!-- {name}: python experiments/family/card.py -->\n", f"<!-- end of {name} -->"
        before, rest = fresh.split(begin)
        fresh = before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    if sys.argv[1:] == ["check"]:
        sys.exit(f"{CARD} is stale; run python experiments/family/card.py" if fresh != told else 0)
    CARD.write_text(fresh)


if __name__ == "__main__":
    main()
