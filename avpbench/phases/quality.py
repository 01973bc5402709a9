"""Quality: every problem through the chain, in fixed blocks, each finished sample durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.errors import OutOfMemory, cause
from avpbench.meter import total
from avpbench.phases.blocks import run_missing
from avpbench.records import PROCESS, Journal, SampleRecord, Status
from avpbench.strategies.words import fell_back
from avpbench.tasks.grading import grade


def run(cell: Cell, journal: Journal[SampleRecord], check_stop: Callable[[], None]) -> Iterator[SampleRecord]:
    """Runs what the journal does not hold yet; yields each sample once it is on the disk."""

    def compute(part: Sequence[int]) -> list[SampleRecord]:
        prompts, jobs = [cell.prompts(i) for i in part], cell.jobs(part)
        with total(cell.agents[-1].engine.device) as took:
            results = run_chain(cell.players, prompts, jobs)
        records = [_record(cell, i, r, len(part)) for i, r in zip(part, results, strict=True)]
        if len(part) > 1:
            return records
        charged = sum(hop.modelled_s or 0.0 for hop in records[0].hops)
        return [replace(records[0], end_to_end_s=took.seconds + charged, process=PROCESS)]

    yield from run_missing("quality", cell, journal, compute, lambda index, error: _failed(cell, index, error), check_stop)


def _record(cell: Cell, index: int, result: ChainResult, batch_size: int) -> SampleRecord:
    problem = cell.task.problem(index)
    graded = grade(result.completion, problem.gold)
    status: Status = "truncated" if result.finish == "length" else "ok"
    if any(fell_back(hop.strategy, hop.decision) for hop in result.hops):
        status = "fallback"
    return SampleRecord(
        problem.id, problem.gold, graded.prediction, graded.correct, status, result.completion, result.turns, result.hops, batch_size
    )


def _failed(cell: Cell, index: int, error: Exception) -> SampleRecord:
    problem = cell.task.problem(index)
    status: Status = "oom" if isinstance(error, OutOfMemory) else "error"
    return SampleRecord(problem.id, problem.gold, None, False, status, "", (), (), 1, cause(error))
