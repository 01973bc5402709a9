"""Quality: every problem through the chain, in fixed blocks, each finished sample durable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.errors import AvpBenchError, OutOfMemory
from avpbench.progress import progress
from avpbench.records import Journal, SampleRecord
from avpbench.tasks.grading import grade

_log = logging.getLogger(__name__)


def run(cell: Cell, journal: Journal, on_sample: Callable[[SampleRecord], None], stopping: Callable[[], bool]) -> None:
    """Runs what the journal does not hold yet.

    A block is always computed whole, so that a resumed run computes what the first would have; only its missing
    samples are written. `stopping` is asked between blocks.
    """
    done = {row["sample_id"] for row in journal.read()}
    size = cell.settings.batch_size
    correct = 0
    with progress("quality", cell.num_samples, sum(cell.task.problem(i).id in done for i in range(cell.num_samples))) as advance:
        for begin in range(0, cell.num_samples, size):
            block = range(begin, min(begin + size, cell.num_samples))
            missing = {i for i in block if cell.task.problem(i).id not in done}
            if not missing:
                continue
            if stopping():
                raise KeyboardInterrupt
            for index, record in zip(block, run_block(cell, block), strict=True):
                if index in missing:
                    journal.append(record)
                    on_sample(record)
                    correct += record.correct
            advance(len(missing), f"accuracy of this session {correct} right")


def run_block(cell: Cell, indices: Sequence[int]) -> list[SampleRecord]:
    """The records of these problems. A batch that fails is halved, down to the one sample whose failure is recorded."""
    try:
        results = run_chain(cell.agents, [cell.prompts(i) for i in indices], cell.jobs(indices))
    except Exception as error:  # whatever a model or a device raises, no sample may be lost
        if not isinstance(error, AvpBenchError):
            _log.exception("a batch of %d failed", len(indices))
        if len(indices) == 1:
            return [_failed(cell, indices[0], error)]
        half = len(indices) // 2
        _log.warning("a batch of %d failed (%s: %s); going on in halves", len(indices), type(error).__name__, error)
        return run_block(cell, indices[:half]) + run_block(cell, indices[half:])
    return [_record(cell, i, result, len(indices)) for i, result in zip(indices, results, strict=True)]


def _record(cell: Cell, index: int, result: ChainResult, batch_size: int) -> SampleRecord:
    problem = cell.task.problem(index)
    graded = grade(result.completion, problem.gold)
    status = "truncated" if result.finish == "length" else "ok"
    if any(hop.strategy != cell.agents[0].strategy.kind for hop in result.hops):
        status = "fallback"
    return SampleRecord(
        problem.id, problem.gold, graded.prediction, graded.correct, status, result.completion, result.turns, result.hops, batch_size
    )


def _failed(cell: Cell, index: int, error: Exception) -> SampleRecord:
    problem = cell.task.problem(index)
    status = "oom" if isinstance(error, OutOfMemory) else "error"
    return SampleRecord(problem.id, problem.gold, None, False, status, "", (), (), 1, f"{type(error).__name__}: {error}")
