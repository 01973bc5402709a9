"""Quality: every problem through the chain, in fixed blocks, each finished sample durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.errors import OutOfMemory, cause
from avpbench.phases.blocks import halving, run_missing
from avpbench.records import Journal, SampleRecord, Status
from avpbench.strategies.text import Text
from avpbench.tasks.grading import grade


def run(cell: Cell, journal: Journal[SampleRecord], check_stop: Callable[[], None]) -> Iterator[SampleRecord]:
    """Runs what the journal does not hold yet; yields each sample once it is on the disk."""
    yield from run_missing("quality", cell, journal, lambda block: run_block(cell, block), check_stop)


def run_block(cell: Cell, indices: Sequence[int]) -> list[SampleRecord]:
    """The records of these problems; a failure is one too."""

    def compute(part: Sequence[int]) -> list[SampleRecord]:
        results = run_chain(cell.agents, [cell.prompts(i) for i in part], cell.jobs(part))
        return [_record(cell, i, result, len(part)) for i, result in zip(part, results, strict=True)]

    return halving(indices, compute, lambda index, error: _failed(cell, index, error))


def _record(cell: Cell, index: int, result: ChainResult, batch_size: int) -> SampleRecord:
    problem = cell.task.problem(index)
    graded = grade(result.completion, problem.gold)
    status: Status = "truncated" if result.finish == "length" else "ok"
    if any(hop.decision is not None and hop.strategy == Text.kind for hop in result.hops):
        status = "fallback"
    return SampleRecord(
        problem.id, problem.gold, graded.prediction, graded.correct, status, result.completion, result.turns, result.hops, batch_size
    )


def _failed(cell: Cell, index: int, error: Exception) -> SampleRecord:
    problem = cell.task.problem(index)
    status: Status = "oom" if isinstance(error, OutOfMemory) else "error"
    return SampleRecord(problem.id, problem.gold, None, False, status, "", (), (), 1, cause(error))
