"""Fixed blocks of problems: what is left to do, and what to do when a batch fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from avpbench.cell import Cell
from avpbench.engine.engine import memory_errors
from avpbench.errors import AvpBenchError, OutOfMemory
from avpbench.progress import progress
from avpbench.records import FidelityRecord, Journal, SampleRecord

_log = logging.getLogger(__name__)
R = TypeVar("R", SampleRecord, FidelityRecord)


def run_missing(
    label: str, cell: Cell, journal: Journal[R], compute: Callable[[Sequence[int]], list[R]], check_stop: Callable[[], None]
) -> Iterator[R]:
    """Computes the blocks that miss a record, writes the missing records, and yields each once it is on the disk.

    A block is always computed whole, so that a resumed run computes what the first would have. `check_stop` raises
    between blocks.
    """
    done = {record.sample_id for record in journal.read()}
    ids = [cell.task.problem(i).id for i in range(cell.num_samples)]
    size = cell.settings.batch_size
    with progress(label, cell.num_samples, sum(one in done for one in ids)) as advance:
        for begin in range(0, cell.num_samples, size):
            block = range(begin, min(begin + size, cell.num_samples))
            missing = {i for i in block if ids[i] not in done}
            if not missing:
                continue
            check_stop()
            for index, record in zip(block, compute(block), strict=True):
                if index in missing:
                    journal.append(record)
                    yield record
            advance(len(missing))


def halving(indices: Sequence[int], compute: Callable[[Sequence[int]], list[R]], failed: Callable[[int, Exception], R]) -> list[R]:
    """The records of these problems. A batch that does not fit is halved; one that fails otherwise is run one by one.

    The failure of a single problem is its record: no sample is lost, whatever a model or a device raises.
    """
    try:
        with memory_errors():
            return compute(indices)
    except Exception as error:
        if len(indices) == 1:
            if not isinstance(error, AvpBenchError):
                _log.exception("problem %d failed", indices[0])
            return [failed(indices[0], error)]
        size = len(indices) // 2 if isinstance(error, OutOfMemory) else 1
        _log.warning("a batch of %d failed (%s: %s); going on with %d at a time", len(indices), type(error).__name__, error, size)
    parts = [indices[k : k + size] for k in range(0, len(indices), size)]
    return [record for part in parts for record in halving(part, compute, failed)]
