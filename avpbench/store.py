"""What lies in the store, read without changing it: a run may be writing there. Light to import."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, final

from avpbench import digest
from avpbench.files import whole_lines
from avpbench.records import FAILED

KINDS = ("samples", "latency", "fidelity")


def run_folders(folder: Path) -> Iterator[Path]:
    """Every run in a folder: itself, a study's, or a whole store's; what `resume=never` set aside is left out."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(("before-", ".", "wandb")))
        if "meta.json" in files or any(f"{kind}.jsonl" in files for kind in KINDS):
            yield Path(root)


@cache
def code_id() -> str:
    """The hash of this package's source: records of another are not gone on with."""
    return digest.of_source(Path(__file__).parent)


@final
@dataclass(slots=True)
class Records:
    """What a run's folder holds so far; `refresh` reads what has come since. Broken lines are named, not raised."""

    folder: Path
    ids: set[str] = field(default_factory=set)
    scored: set[str] = field(default_factory=set)
    rows: dict[int, set[tuple[str, bool, str]]] = field(default_factory=dict)  # who was timed by which clock, by block
    num_correct: int = 0
    num_errors: int = 0
    broken: list[str] = field(default_factory=list)  # where lines are that are no records
    _offsets: dict[str, int] = field(default_factory=dict)
    _lines: Counter[str] = field(default_factory=Counter)

    def refresh(self) -> Records:
        for kind in KINDS:
            lines, self._offsets[kind] = whole_lines(self.folder / f"{kind}.jsonl", self._offsets.get(kind, 0))
            for number, line in enumerate(lines, 1 + self._lines[kind]):
                try:
                    self._count(kind, json.loads(line))
                except (ValueError, KeyError, TypeError):
                    self.broken.append(f"{kind}.jsonl:{number}")
            self._lines[kind] += len(lines)
        return self

    def _count(self, kind: str, row: dict[str, Any]) -> None:
        if kind == "latency":
            self.rows.setdefault(row["block"], set()).add((row["strategy"], row["aa"], row["clock"]))
        elif kind == "fidelity":
            self.scored.add(row["sample_id"])
        elif row["sample_id"] not in self.ids:
            self.ids.add(row["sample_id"])
            self.num_correct += row["correct"]
            self.num_errors += row["status"] in FAILED

    @property
    def num_blocks(self) -> int:
        """Timed blocks with as much as the fullest, however often each ran: a crash may have torn one."""
        fullest = max(map(len, self.rows.values()), default=0)
        return sum(len(held) == fullest for held in self.rows.values())


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """How many samples, timed blocks and scores a config asks for; None: all problems, and how many is not known yet."""

    samples: int | None
    blocks: int
    scores: int | None

    @classmethod
    def of(cls, values: dict[str, Any], known: int | None = None) -> Wanted:
        """Of a plain config; `known`: the number of samples that an earlier run counted for it."""
        size = values["limit"] or values["task"].get("size") or known
        hops = values["chain"] > 1
        return cls(
            samples=size if values["quality"]["enabled"] else 0,
            blocks=values["latency"].get("repeats", 0) if hops and values["latency"]["enabled"] else 0,
            scores=size if hops and values["fidelity"]["enabled"] else 0,
        )

    def left(self, have: Records) -> Wanted:
        """What is missing."""
        return Wanted(
            None if self.samples is None else max(0, self.samples - len(have.ids)),
            max(0, self.blocks - have.num_blocks),
            None if self.scores is None else max(0, self.scores - len(have.scored)),
        )

    def and_what_is_there(self, have: Records) -> Wanted:
        """What was asked for in all: no less than what is there, since a later session may ask for less, or for nothing."""
        return Wanted(
            None if self.samples is None else max(self.samples, len(have.ids)),
            max(self.blocks, have.num_blocks),
            None if self.scores is None else max(self.scores, len(have.scored)),
        )

    @property
    def nothing(self) -> bool:
        return (self.samples, self.blocks, self.scores) == (0, 0, 0)


def progress(have: Records, left: Wanted) -> Literal["done", "partial", "to do"]:
    """How far a cell is: done once nothing is left and it was summed up."""
    if left.nothing and (have.folder / "summary.json").is_file():
        return "done"
    return "partial" if have.ids or have.rows or have.scored else "to do"
