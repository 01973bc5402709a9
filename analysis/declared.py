"""What a study promises before its records exist: the YAML block of experiments/STUDY/README.md, figures.yaml, and the claims.

The README is where a person reads the question and the contrasts; the tables are made from the same block. figures.yaml beside it
is a list of FigureSpec.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, final, get_args, get_origin, get_type_hints

import yaml

from analysis.errors import Refused, Undeclared
from analysis.metrics import metric
from analysis.timing import CLOCKS

EXPERIMENTS = Path("experiments")
_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_T = TypeVar("_T")
Where = dict[str, Any]
RULINGS = {"holds", "fails", "unclear"}


@final
@dataclass(frozen=True, slots=True)
class TableSpec:
    """Rows by label; `kind` says which table. Rows named raw, text, reprefill, blank and shuffled play those parts."""

    name: str
    kind: Literal["strategies", "controllers", "crossed", "divergences", "timings"]
    title: str
    rows: dict[str, Where]
    where: Where = field(default_factory=dict)
    each: dict[str, list[Any]] = field(default_factory=dict)  # a table of its own for every combination
    across: dict[str, list[Any]] = field(default_factory=dict)  # timings: rows for every combination
    columns: dict[str, Where] = field(default_factory=dict)  # crossed: a column each, the first is what the others are compared with


@final
@dataclass(frozen=True, slots=True)
class ContrastSpec:
    """a - b of a metric, expected `less` or `more`; with `each`, one for every combination, the name and the sides' texts filled in.

    Where the metric is a clock (ttft_host, ttft_device, handoff), a and b are entrants (`entrant`) of the same timed blocks, and
    the effect is the ratio T_b / T_a.
    """

    name: str
    metric: str
    a: Where
    b: Where
    expect: Literal["less", "more"]
    where: Where = field(default_factory=dict)
    each: dict[str, list[Any]] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """What runs along x: a fact and its values; `metric` draws each point at a measured number instead of the value."""

    fact: str
    values: list[Any]
    label: str
    scale: str = "linear"
    metric: str | None = None


@final
@dataclass(frozen=True, slots=True)
class PanelSpec:
    """One pair of axes."""

    title: str
    lines: dict[str, Where]
    x: Axis
    metric: str = ""
    kind: Literal["lines", "stack", "map"] = "lines"
    scale: str = "linear"
    where: Where = field(default_factory=dict)
    against: Where | None = None
    limit: str | None = None  # a metric drawn dotted beside each line
    levels: dict[str, Where] = field(default_factory=dict)
    marks: dict[str, list[float]] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class FigureSpec:
    name: str
    caption: str
    panels: list[PanelSpec]


@final
@dataclass(frozen=True, slots=True)
class Declared:
    """A study as its README has it."""

    name: str
    folder: str  # of experiments, where the README is
    title: str
    question: str
    command: str
    tables: list[TableSpec]
    contrasts: list[ContrastSpec]
    figures: list[FigureSpec]
    organism: str = ""  # the embedded models' own words of the command; empty where the study has none of them
    also: list[str] = field(default_factory=list)  # the same study with other models: shown where it is published
    optional: bool = False

    @property
    def where(self) -> Where:
        """What all its cells have in common: the study, and the training seeds where its words name several."""
        seeds = [int(seed) for seed in re.findall(r"\d+", self.organism)] if self.organism.startswith("model.variant=") else []
        return {"study": self.name} | ({"variant": seeds} if len(seeds) > 1 else {})


@final
@dataclass(frozen=True, slots=True)
class Measure:
    label: str
    metric: str
    cells: Where
    against: Where | None = None
    entrant: str | None = None
    counts: bool = True  # in the verdict; else it stands beside the others
    contrast: str = ""  # of the study, whose verdict (Holm, training seeds) counts in the place of this interval
    line: dict[str, list[float]] = field(default_factory=dict)  # error of this ratio as lines over a fact's values predict it


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """A published claim: their number, how it is measured here, and the rule that gives the verdict its wording."""

    claim: str
    source: str
    theirs: str
    definition: str
    differs: str
    study: str
    measures: list[Measure]
    needs: Literal["any", "cuda", "real"]
    verdict: dict[str, str]  # of each RULING; {0}, {1} ... are the measures
    at_least: float | None = None
    at_most: float | None = None
    instead: str = ""  # the study whose records are shown where `study` has none
    least: dict[str, list[Any]] = field(default_factory=dict)  # a fact and its values, rising: {least} is the first from which on it holds


def studies(root: Path) -> list[Declared]:
    """Every study with a YAML block in its README, by name."""
    found = []
    for path in sorted(root.glob("*/README.md")):
        text = path.read_text(encoding="utf-8")
        if block := _BLOCK.search(text):
            study = _study(path, text, _parsed(path, block.group(1)))
            found += [replace(study, command=f"{study.command} {study.organism}".strip()), *(_other(study, name) for name in study.also)]
    return found


def _other(study: Declared, name: str) -> Declared:
    """The same tables and figures of another model's records."""
    suffix = name.removeprefix(study.name)
    return replace(
        study,
        name=name,
        title=f"{study.title}: {suffix.lstrip('_')}",
        command=f"STUDY={name} {study.command}",
        tables=[replace(table, name=table.name + suffix) for table in study.tables],
        figures=[replace(figure, name=figure.name + suffix) for figure in study.figures],
        organism="",
        also=[],
        optional=True,
    )


def claims(root: Path) -> list[Claim]:
    """The claims of claims.yaml, in its order; none where there is no such file."""
    path = root / "claims.yaml"
    if not path.exists():
        return []
    rows = _parsed(path, path.read_text(encoding="utf-8"))
    for row in rows:
        if (said := set(row.get("verdict", {}))) != RULINGS:
            raise Undeclared(f"{path}: {row.get('claim')!r} has verdicts for {sorted(said)}; it takes {sorted(RULINGS)}")
    return [_made(path, Claim, row | {"measures": [_made(path, Measure, m) for m in row.get("measures", [])]}) for row in rows]


def _study(path: Path, text: str, block: dict[str, Any]) -> Declared:
    lines = text.splitlines()
    question = " ".join(text.split("\n\n")[1].split()) if "\n\n" in text else ""
    drawn = path.with_name("figures.yaml")
    figures = _parsed(drawn, drawn.read_text(encoding="utf-8")) if drawn.exists() else []
    given: dict[str, Any] = {"name": path.parent.name, "folder": path.parent.name, "title": lines[0].lstrip("# "), "question": question}
    given |= {"contrasts": [], "tables": []} | block
    given["tables"] = [_made(path, TableSpec, t) for t in given["tables"]]
    given["contrasts"] = [_made(path, ContrastSpec, c) for c in given["contrasts"]]
    given["figures"] = [_made(drawn, FigureSpec, f | {"panels": [_panel(drawn, p) for p in f["panels"]]}) for f in figures]
    return _made(path, Declared, given)


def _panel(path: Path, panel: dict[str, Any]) -> PanelSpec:
    return _made(path, PanelSpec, panel | {"x": _made(path, Axis, panel.get("x", {}))})


def _parsed(path: Path, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Undeclared(f"{path}: the YAML cannot be read ({error})") from error


def _made(path: Path, kind: type[_T], values: dict[str, Any]) -> _T:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    needed = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    for wrong, said in ((values.keys() - known.keys(), "does not take"), (needed - values.keys(), "lacks")):
        if wrong:
            raise Undeclared(f"{path}: {kind.__name__} {said} {', '.join(sorted(wrong))}; it takes {', '.join(known)}")
    for name, hint in get_type_hints(kind).items():
        if get_origin(hint) is Literal and name in values and values[name] not in get_args(hint):
            raise Undeclared(f"{path}: {name} of a {kind.__name__} is {values[name]!r}; it is one of {', '.join(get_args(hint))}")
    if (wanted := values.get("metric")) and wanted not in CLOCKS:
        try:
            metric(wanted)
        except Refused as error:
            raise Undeclared(
                f"{path}: {kind.__name__} {values.get('name', values.get('label', values.get('title')))!r}: {error}"
            ) from error
    return kind(**values)


def combinations(each: dict[str, list[Any]]) -> list[Where]:
    """Every combination of these values; one empty one where there are none."""
    return [dict(zip(each, values, strict=True)) for values in itertools.product(*each.values())]


def filled(text: str, chosen: Where) -> str:
    """The text with every {fact} that was chosen put in."""
    for key, value in chosen.items():
        text = text.replace(f"{{{key}}}", str(value))
    return text
