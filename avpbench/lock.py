"""A folder of records belongs to one run at a time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avpbench.errors import RecordsError


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder and holds it for this process. Raises RecordsError, naming the holder, where another runs in it.

    A lock that a dead process of this machine left behind is taken over.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / "lock"
        _take(lock)
    except OSError as error:
        raise RecordsError(f"cannot write to {folder}: {error.strerror}; choose another folder with results=DIR") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _take(lock: Path) -> None:
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})
    ticket = lock.with_name(f"lock.{socket.gethostname()}.{os.getpid()}")
    ticket.write_text(mine)
    try:
        for _ in range(3):
            try:
                os.link(ticket, lock)  # atomic on NFS too: it fails where the lock exists
                return
            except FileExistsError:
                holder = _holder(lock)
                if holder is not None:
                    raise RecordsError(
                        f"{lock.parent} is in use by process {holder['pid']} on {holder['host']}; wait for it, or stop it"
                        " and run the same command again"
                    ) from None
                lock.unlink(missing_ok=True)
        raise RecordsError(f"{lock} changes hands; run the same command again")
    finally:
        ticket.unlink(missing_ok=True)


def _holder(lock: Path) -> dict[str, Any] | None:
    """Who holds the lock, or None where a dead process of this machine left it."""
    try:
        holder: dict[str, Any] = json.loads(lock.read_text())
    except FileNotFoundError:
        return None
    if holder["host"] == socket.gethostname() and _started(holder["pid"]) != holder["started"]:
        return None
    return holder


def _started(pid: int) -> str | None:
    """When the process began, so that a number used again is not taken for the process; None where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except FileNotFoundError:
        pass
    except ProcessLookupError:
        return None
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return "running"
