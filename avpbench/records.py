"""What is written: one line of JSON a sample, durable before the next one starts; the truth of every table.

A line that a crash tore off is cut before the next is written, and by nobody who only reads. Light to import.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar, final

from avpbench.errors import RecordsError, cause
from avpbench.files import whole_lines

CLOCKS = ("host", "handoff", "device", "stages")
EXPORT = "export"  # one more, where the sender lives in this process; not in an A/A repeat
Status = Literal["ok", "truncated", "fallback", "oom", "error"]
PROCESS = uuid.uuid4().hex[:12]  # this one, in its records of time
FAILED = frozenset({"oom", "error"})  # those that have no answer


@final
@dataclass(frozen=True, slots=True)
class TurnRecord:
    """What one agent's turn cost. `kv_bytes` is what its cache held at the end, its prefix included."""

    role: str
    model: str
    said: str
    finish: str  # stop, length, script, latent
    cached_tokens: int
    prefilled_tokens: int
    generated_tokens: int
    latent_steps: int
    kv_bytes: int


@final
@dataclass(frozen=True, slots=True)
class HopRecord:
    """One hand-off. `cache_bytes` are the parcel's tensors; `stages_s` is None where the hop was batched."""

    strategy: str
    decision: str | None
    sender_pid: int
    receiver_pid: int
    wire_bytes: int
    cache_bytes: int
    num_values: int | None  # keys and values that the parcel stands for, dropped ones included; None where it carries none
    stages_s: dict[str, float] | None
    bandwidth_bps: float | None = None  # what the link was held to, bits a second; None: nothing
    modelled_s: float | None = None  # of the hop's seconds: charged for the link as bytes / bandwidth, not spent


@final
@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One problem through the whole chain. `batch_size` is what it ran at, `process` names the process; `error` says what went wrong.

    `end_to_end_s` is the chain's time from the first prompt to the last id, with what its hops were charged for a modelled link;
    None where it ran in a batch.
    """

    sample_id: str
    gold: str
    prediction: str | None
    correct: bool
    status: Status
    completion: str
    turns: tuple[TurnRecord, ...]
    hops: tuple[HopRecord, ...]
    batch_size: int
    error: str | None = None
    end_to_end_s: float | None = None
    process: str | None = None  # None: recorded before this was

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        turns = tuple(TurnRecord(**turn) for turn in row["turns"])
        hops = tuple(HopRecord(**hop) for hop in row["hops"])
        return cls(**(row | {"turns": turns, "hops": hops}))


@final
@dataclass(frozen=True, slots=True)
class LatencyRecord:
    """One timed repeat. `clock` is one of CLOCKS (docs/metrics.md) or EXPORT; `stages_s` has the parts of stages and of an export;
    `process` names the process."""

    block: int
    order: int
    strategy: str
    clock: str
    seconds: float
    stages_s: dict[str, float] | None
    sample_id: str
    prefix_tokens: int
    new_tokens: int
    wire_bytes: int
    process: str
    aa: bool  # the second run of one strategy in a block, for the A/A gate
    modelled_s: float | None = None  # of `seconds`: charged for the link as bytes / bandwidth, not spent
    fell_back: bool = False  # words crossed in the place of what was to cross: no time of the strategy's
    limit_s: float | None = None  # the least that this process's measured rates allow (limits.py); None for other clocks than TTFT

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        return cls(**row)


def whole_blocks(rows: Sequence[LatencyRecord], entrants: Set[tuple[str, bool]]) -> set[int]:
    """Blocks in which each of these (strategy, aa) has every clock. What a crash left of a block stays, and does not count."""
    wanted = {(strategy, aa, clock) for strategy, aa in entrants for clock in CLOCKS}
    held: dict[int, set[tuple[str, bool, str]]] = {}
    for row in rows:
        held.setdefault(row.block, set()).add((row.strategy, row.aa, row.clock))
    return {block for block, have in held.items() if wanted <= have}


def counted_blocks(rows: Sequence[LatencyRecord], entrants: Set[tuple[str, bool]]) -> set[int]:
    """The whole blocks in which none of these fell back to words."""
    return whole_blocks(rows, entrants) - {row.block for row in rows if row.fell_back and (row.strategy, row.aa) in entrants}


def averaged(rows: Sequence[LatencyRecord]) -> list[LatencyRecord]:
    """One row of a strategy, clock and block: the mean of its runs there."""
    runs: dict[tuple[int, str, str, bool], list[LatencyRecord]] = {}
    for row in rows:
        runs.setdefault((row.block, row.strategy, row.clock, row.aa), []).append(row)
    return [replace(same[0], seconds=sum(row.seconds for row in same) / len(same)) for same in runs.values()]


@final
@dataclass(frozen=True, slots=True)
class FidelityRecord:
    """One problem's gold continuation scored at the receiver: means over its tokens."""

    sample_id: str
    tokens: int
    kl: float
    nll: float
    raw_nll: float
    top1_flips: float
    attention_errors: list[list[float]] | None  # per hop, per layer: of what the gold reads in what was handed over until then, as a
    # share; None where no K/V crossed
    mean_bits: float | None = None  # of the last hop's bytes, a value that they stand for; None where they stand for none

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        return cls(**row)


class Record(Protocol):
    """A frozen dataclass that JSON can hold."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self: ...


R = TypeVar("R", bound=Record)


@final
class Journal(Generic[R]):
    """An append-only file of records of one kind, a line of JSON each, on the disk before `append` returns.

    `guard` is asked before every line; it raises where the file is not ours to write.
    """

    def __init__(self, path: Path, kind: type[R], guard: Callable[[], None] | None = None) -> None:
        self.path, self._kind, self._guard = path, kind, guard
        self._end: int | None = None  # of what this object wrote

    def read(self) -> list[R]:
        """Every whole line, the file left as it is. A torn last line is passed over; any other broken line raises RecordsError."""
        rows = []
        for number, line in enumerate(whole_lines(self.path)[0], 1):
            try:
                rows.append(self._kind.from_json(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise RecordsError(
                    f"{self.path}:{number}: not a {self._kind.__name__} ({cause(error)}); repair or remove the line"
                ) from error
        return rows

    def append(self, record: R) -> None:
        """Writes a record as one line and waits until the disk has it. Raises RecordsError where it cannot."""
        if self._guard is not None:
            self._guard()
        line = json.dumps(asdict(record), ensure_ascii=False).encode() + b"\n"
        try:
            with self.path.open("ab", buffering=0) as file:
                before = self._cut(file.fileno())
                try:
                    if file.write(line) != len(line):
                        raise OSError(28, "No space left on device")
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), before)
                    raise
                self._end = before + len(line)
        except OSError as error:
            raise RecordsError(
                f"cannot write {self.path}: {error.strerror}. Every earlier record is safe; make room or choose another"
                " folder (results=DIR), then run the same command again to go on"
            ) from error

    def _cut(self, file: int) -> int:
        """Takes what a crash left of a line off the end; the offset where the next goes."""
        size = os.fstat(file).st_size
        if size != self._end:
            whole = whole_lines(self.path)[1]
            if whole < size:
                os.ftruncate(file, whole)
            size = whole
        return size


def read_samples(folder: Path) -> list[SampleRecord]:
    """The records of a run's folder, in the order written."""
    return Journal(folder / "samples.jsonl", SampleRecord).read()
