"""Fixed blocks of problems: what is left to do, and what to do when a batch fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, final

from avpbench.cell import Cell
from avpbench.config import LARGEST_BATCH
from avpbench.engine.continuation import memory_errors
from avpbench.errors import AvpBenchError, LinkError, OutOfMemory
from avpbench.progress import progress
from avpbench.records import FidelityRecord, Journal, SampleRecord

_log = logging.getLogger(__name__)
R = TypeVar("R", SampleRecord, FidelityRecord)


@final
class Size:
    """How many problems make a block: as told, or with `auto` a power of two that shrinks to what has fitted.

    Powers of two divide each other, so blocks stay aligned to the data set whatever was found when.
    """

    def __init__(self, batch_size: int | str) -> None:
        self._auto = batch_size == "auto"
        self.now = LARGEST_BATCH if isinstance(batch_size, str) else batch_size

    def did_not_fit(self, tried: int) -> None:
        """A batch of so many ran out of memory."""
        if self._auto:
            while self.now > 1 and self.now >= tried:
                self.now //= 2


def run_missing(
    label: str, cell: Cell, journal: Journal[R], compute: Callable[[Sequence[int]], list[R]], failed: Callable[[int, Exception], R],
    check_stop: Callable[[], None],
) -> Iterator[R]:  # fmt: skip
    """Computes the blocks that miss a record, writes the missing records, and yields each once it is on the disk.

    A block is always computed whole, so that a resumed run computes what the first would have; what cannot be computed
    becomes its `failed` record. `check_stop` raises between blocks.
    """
    done = {record.sample_id for record in journal.read()}
    ids = [cell.task.problem(i).id for i in range(cell.num_samples)]
    size = Size(cell.settings.batch_size)
    with progress(label, cell.num_samples, sum(one in done for one in ids)) as advance:
        begin = 0
        while begin < cell.num_samples:
            block = range(begin, min(begin + size.now, cell.num_samples))
            begin = block.stop
            missing = {i for i in block if ids[i] not in done}
            if not missing:
                continue
            check_stop()
            for index, record in zip(block, halving(block, compute, failed, size), strict=True):
                if index in missing:
                    journal.append(record)
                    yield record
            advance(len(missing))


def halving(
    indices: Sequence[int], compute: Callable[[Sequence[int]], list[R]], failed: Callable[[int, Exception], R], size: Size,
    again: bool = False,
) -> list[R]:  # fmt: skip
    """The records of these problems. A batch that does not fit is halved; one that fails otherwise is run one by one.

    The failure of a single problem is its record: no sample is lost, whatever a model or a device raises. Where a link failed, as by
    the death of a process, a single problem too is run once more.
    """
    try:
        with memory_errors():
            return compute(indices)
    except Exception as error:
        if len(indices) == 1 and isinstance(error, LinkError) and not again:
            _log.warning("problem %d failed (%s); it is done once more", indices[0], error)
            return halving(indices, compute, failed, size, again=True)
        if len(indices) == 1:
            if not isinstance(error, AvpBenchError):
                _log.exception("problem %d failed", indices[0])
            return [failed(indices[0], error)]
        part = 1
        if isinstance(error, OutOfMemory):
            size.did_not_fit(len(indices))
            part = 1 << (len(indices) - 1).bit_length() - 1  # the largest power of two below
        _log.warning("a batch of %d failed (%s: %s); going on with %d at a time", len(indices), type(error).__name__, error, part)
    records: list[R] = []
    while len(records) < len(indices):
        step = min(part, size.now)  # which another part may have found too large
        records += halving(indices[len(records) : len(records) + step], compute, failed, size)
    return records
