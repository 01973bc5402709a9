"""Cells that can be asked for by what they are, and the refusal of comparisons that would mean nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast, final

import numpy as np
import pandas as pd

from analysis.bounds import tightened
from analysis.errors import Refused
from analysis.studies import Study
from avpbench.meta import CLOCKWORK
from avpbench.records import LatencyRecord, counted_blocks
from avpbench.summary import REFERENCE

Where = Mapping[str, Any]
SOFT = ("projected", "random_direction", "avp_projected")  # what they hand over is read as soft tokens
MIXTURE = "uniform is a strided mixture of two neighbouring levels where no level costs the budget exactly"
UNTRAINED = (
    "\u2020 the embedded models were not trained for this: soft tokens, latent steps, or more than 8 agents; "
    "avpbench/zoo/README.md says what each was trained for"
)
ORGANISM = "an embedded model is a model organism: it shows whether a hand-off carries what it should; its timings measure Python"
KL_ROUNDING = 1e-3  # nats a token: of a sum of rounded terms
_SAME = ("device", "dtype", "prompts", "data")
Place = tuple[str, ...]  # device, dtype, wording; of times also CLOCKWORK: what points of a figure and rows of a table share
_SHORT = {  # facts that studies select by, and where the config has them
    "variant": "model.variant", "load": "model.load", "level": "task.level", "fraction": "strategy.fraction",
    "requantize": "strategy.requantize", "draw": "strategy.controller.seed",
}  # fmt: skip


@final
@dataclass(frozen=True, eq=False, slots=True)
class Cell:
    """One run: its facts (summary, shorthands and the dotted config), its records, and what is wrong with it."""

    study: str
    hash: str
    facts: dict[str, Any]
    meta: dict[str, Any]
    samples: pd.DataFrame
    latency: pd.DataFrame
    fidelity: pd.DataFrame
    problem: str | None

    @property
    def label(self) -> str:
        """The strategy with its parts."""
        return str(self.facts["label"])

    @property
    def on_cuda(self) -> bool:
        return not str(self.meta["identity"]["device"]).startswith("cpu")

    @property
    def untrained(self) -> bool:
        """Whether an embedded model is used as none was trained: soft tokens, latent steps, a chain of more than 8."""
        handed = {kind for kinds in self.samples.get("handed", pd.Series(dtype=str)).dropna().unique() for kind in kinds.split()}
        soft = any(kind in SOFT for kind in (*handed, self.facts.get("strategy")))
        return bool(self.facts.get("model.zoo")) and (soft or bool(self.facts.get("think_steps")) or self.facts.get("chain", 0) > 8)

    def ran(self, phase: str) -> bool:
        """Whether the run was asked for quality, latency or fidelity; a chain of one has no hop to time or score."""
        return bool(self.facts.get(f"{phase}.enabled")) and (phase == "quality" or self.facts.get("chain") != 1)

    def matches(self, where: Where) -> bool:
        """Whether every named fact is the wanted one, or one of the wanted ones; absent facts are None, `*` in a text stands for any."""
        return all(_is(self.facts.get(key), wanted) for key, wanted in where.items())


def _is(fact: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_is(fact, one) for one in wanted)
    if isinstance(wanted, str) and "*" in wanted:
        return isinstance(fact, str) and fnmatchcase(fact, wanted)
    return bool(fact == wanted)


def cells_of(study: Study) -> list[Cell]:
    """A study's cells, in the order of their folders' names."""
    frames = {
        kind: _by_cell(frame) for kind, frame in (("samples", study.samples), ("latency", tightened(study)), ("fidelity", study.fidelity))
    }
    found = []
    for name, one in sorted(study.cells.items(), key=lambda item: str(item[1]["folder"])):
        parts = {kind: frames[kind].get(name, pd.DataFrame()) for kind in frames}
        counts = _counts(one, parts)
        problem = study.damaged.get(name) or _problem(one, counts) or _disorder(one, parts)
        found.append(Cell(study.name, name, _facts(study.name, one) | counts, one["meta"], **parts, problem=problem))
    return found


def _by_cell(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {} if frame.empty else {str(name): part for name, part in frame.groupby("cell", sort=False)}


def _problem(cell: dict[str, Any], counts: dict[str, int]) -> str | None:
    """Why the cell's numbers may not be used; None where they may."""
    gates = cell["meta"]["gates"]
    if not gates:
        return "its validity gates were switched off"
    if failed := [g["name"] for g in gates if not g["passed"]]:
        return f"its validity gates failed: {', '.join(failed)}"
    words = {"num_samples": "samples", "num_scored": "scores", "num_blocks": "timed blocks"}
    for key, number in counts.items():
        if number < cell["summary"][key]:
            return f"it has records of {number} {words[key]}, and its summary counts {cell['summary'][key]}"
    return None


def _disorder(cell: dict[str, Any], parts: dict[str, pd.DataFrame]) -> str | None:
    """Why its records may not be used: lost or added since they were published, two of one problem, an outcome that is none."""
    for kind, published in cell.get("records", {}).items():
        if len(parts[kind]) != published:
            return f"it has {len(parts[kind])} records of {kind}, and {published} were published"
    for kind in ("samples", "fidelity"):
        if len(parts[kind]) and (twice := parts[kind].sample_id[parts[kind].sample_id.duplicated()].tolist()):
            return f"it has several records of {kind} for {twice[0]}"
    if len(parts["samples"]) and parts["samples"].correct.isna().any():
        return "it has samples that are neither right nor wrong"
    return _impossible(cell["summary"], parts)


def _impossible(summary: dict[str, Any], parts: dict[str, pd.DataFrame]) -> str | None:
    """Which of its records hold what no run writes."""
    samples, timed, kl = parts["samples"], parts["latency"], parts["fidelity"].get("kl")
    if len(timed):
        seconds = pd.to_numeric(timed.seconds, errors="coerce").where(
            (timed.clock == "export") | (timed.seconds >= 0)
        )  # that is a difference
        if not np.isfinite(seconds).all():
            return "it has timed blocks whose seconds are no number, or below zero"
    if kl is not None and not (pd.to_numeric(kl, errors="coerce").between(-KL_ROUNDING, np.inf, inclusive="left")).all():
        return "it has scores whose KL is no number, or below zero by more than rounding"
    if len(samples) and len(samples) == summary["num_samples"] and abs(samples.correct.mean() - summary["accuracy"]) > 1e-6:
        return f"{samples.correct.mean():.1%} of its samples are right, and its summary says {summary['accuracy']:.1%}"
    return None


def _counts(cell: dict[str, Any], parts: dict[str, pd.DataFrame]) -> dict[str, int]:
    """How many records there are; a later session with a smaller limit sums up fewer of them, and all of them count here."""
    blocks = _num_blocks(parts["latency"], cell["summary"]["label"])
    return {"num_samples": len(parts["samples"]), "num_scored": len(parts["fidelity"]), "num_blocks": blocks}


def _num_blocks(latency: pd.DataFrame, label: str) -> int:
    """Blocks in which the strategy, and the reference where it ran at all, have every clock and did not fall back."""
    if latency.empty:
        return 0
    entrants = {label} | ({REFERENCE} & set(latency.strategy))
    rows = cast("list[LatencyRecord]", list(latency.itertuples()))
    return len(counted_blocks(rows, {(entrant, False) for entrant in entrants}))


def _facts(study: str, cell: dict[str, Any]) -> dict[str, Any]:
    config = dict(dotted(cell["meta"]["config"]))
    short = {name: config.get(key) for name, key in _SHORT.items()}
    facts: dict[str, Any] = config | short | cell["summary"]
    return facts | {"study": study, "folder": cell["folder"]}


def nested(held: str, whose: str) -> Any:
    """What a column holds as text: turns, stages, errors by layer. Raises Refused where it is torn."""
    try:
        return json.loads(held)
    except ValueError as error:
        raise Refused(f"{whose}: what is nested in a record cannot be read ({error}); publish the study again") from error


def dotted(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A config's values by dotted key."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from dotted(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def trained_organism(cell: Cell) -> bool:
    """Whether the cell's accuracy is a trained embedded model's, of which several training seeds are wanted."""
    return bool(cell.facts.get("model.zoo")) and cell.facts.get("load") == "weights"


def usable(cells: Iterable[Cell]) -> None:
    """Raises Refused, naming the first cell that may not be used."""
    for cell in cells:
        if cell.problem:
            raise Refused(f"{cell.facts['folder']}: {cell.problem}")


def comparable(cells: Sequence[Cell]) -> None:
    """Raises Refused unless the cells may stand in one comparison: usable, and of one device, dtype, wording and data."""
    usable(cells)
    for key in _SAME:
        values = {str(cell.meta["identity"].get(key)): cell for cell in cells}
        if len(values) > 1:
            named = "; ".join(f"{cell.facts['folder']}: {value}" for value, cell in sorted(values.items(), key=lambda v: v[0]))
            raise Refused(f"they differ in {key} ({named})")


def same_clock(cells: Sequence[Cell]) -> None:
    """Raises Refused where times of these cells may not be compared: another processor, number of threads or way of allocating."""
    for key in CLOCKWORK:
        found = {str(cell.meta[key]): cell for cell in cells if cell.meta.get(key) is not None}
        if len(found) > 1:
            named = "; ".join(f"{cell.facts['folder']}: {value}" for value, cell in sorted(found.items(), key=lambda v: v[0]))
            raise Refused(f"their times differ in {key} ({named})")


def usual_place(cells: Sequence[Cell], timed: bool = False) -> Place:
    """Where most of these cells ran; `timed`: those that were timed, where any were."""
    cells = [cell for cell in cells if timed and cell.ran("latency")] or cells
    return Counter(_place(cell, timed) for cell in cells).most_common(1)[0][0]


def in_place(cells: Sequence[Cell], place: Place, timed: bool = False) -> None:
    """Raises Refused where a cell may not be used, or ran on another device, in another dtype or with other prompts than what it would
    stand beside; `timed`: or differs in its CLOCKWORK."""
    usable(cells)
    for cell in cells:
        if (own := _place(cell, timed)) != place:
            raise Refused(f"{cell.facts['folder']} ran with {', '.join(own)}, and what it would stand beside with {', '.join(place)}")


def _place(cell: Cell, timed: bool) -> Place:
    found = [str(cell.meta["identity"][key]) for key in ("device", "dtype", "prompts")]
    return tuple(found + [f"{key} {cell.meta.get(key)}" for key in CLOCKWORK if timed])
