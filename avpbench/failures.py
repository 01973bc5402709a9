"""What a cell's last attempt died of, in its folder and in the table at the end of a multirun. Light to import."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, final

from avpbench.errors import ConfigError, IncompatibleModels, InUse, RecordsError, cause
from avpbench.files import make_folder, read_json, write_json

NAME = "failure.json"


def scheduler_job() -> str | None:
    """SLURM's own name of the job that this process is: ARRAY_TASK in an array, whose bare numbers may mean all of it. None outside."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt at a cell. `job` is the scheduler's number of it; `traceback` is None where the process was killed."""

    error: str
    message: str
    traceback: str | None
    at: str
    host: str
    pid: int
    job: str | None

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """This process's failure, now."""
        told = "".join(traceback.format_exception(error)) if error.__traceback__ else None
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        return cls(type(error).__name__, str(error), told, at, socket.gethostname(), os.getpid(), scheduler_job())

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        return cls(**row)

    @property
    def impossible(self) -> bool:
        """Whether the cell cannot run at all, which its models or data showed only when they were there."""
        return self.error in (ConfigError.__name__, IncompatibleModels.__name__)

    @property
    def held(self) -> bool:
        """Whether another run has the cell: that run tells how it goes."""
        return self.error == InUse.__name__

    @property
    def line(self) -> str:
        """The error's kind and the first line of its message."""
        first = self.message.strip().splitlines()[:1]
        return ": ".join([self.error, *first])


def write(folder: Path, failure: Failure) -> None:
    """Leaves failure.json in a cell's folder; where nothing can be written there, the table alone tells of it."""

    with suppress(RecordsError):
        make_folder(folder)
        write_json(folder / NAME, asdict(failure))


def read(folder: Path) -> Failure | None:
    """What a cell's last attempt died of; None where it did not. Raises RecordsError for a file that says something else."""
    row = read_json(folder / NAME)
    try:
        return Failure.from_json(row) if row else None
    except TypeError as error:
        raise RecordsError(f"{folder / NAME} is not a run's of this version ({cause(error)})") from error


@contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Writes what fails in the block to the folder's failure.json; that of an earlier attempt goes as this one begins.

    A cell that another run holds has not failed: that run tells how it went.
    """
    with suppress(OSError):  # a folder that cannot be written is told of when something is written
        (folder / NAME).unlink(missing_ok=True)
    try:
        yield
    except InUse:
        raise
    except Exception as error:
        write(folder, Failure.of(error))
        raise
