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
        if _read(lock) == _mine():
            lock.unlink(missing_ok=True)


def _mine() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _take(lock: Path) -> None:
    """Links a ticket of ours to the lock's name: atomic on NFS too, it fails where the name exists."""
    ticket = lock.with_name(f"lock.{socket.gethostname()}.{os.getpid()}")
    ticket.write_text(json.dumps(_mine()))
    try:
        for _ in range(5):
            try:
                os.link(ticket, lock)
            except FileExistsError:
                _clear_dead(lock)
            else:
                return
        raise RecordsError(f"{lock} changes hands; run the same command again")
    finally:
        ticket.unlink(missing_ok=True)


def _clear_dead(lock: Path) -> None:
    """Takes a dead holder's lock away. Raises RecordsError, naming the holder, where it lives.

    The lock is renamed before it goes: of two that find it dead, one renames it, and one that was so late that it
    renamed a living holder's puts that back.
    """
    holder = _read(lock)
    if _alive(holder):
        raise RecordsError(
            f"{lock.parent} is in use by process {holder['pid']} on {holder['host']}; wait for it, or stop it and run the same"
            " command again"
        )
    aside = lock.with_name(f"lock.dead.{socket.gethostname()}.{os.getpid()}")
    try:
        os.rename(lock, aside)
    except FileNotFoundError:
        return
    try:
        if _alive(_read(aside)):
            os.link(aside, lock)
    finally:
        aside.unlink(missing_ok=True)


def _read(lock: Path) -> dict[str, Any]:
    """What the lock says; empty where it is gone or says nothing."""
    try:
        said = json.loads(lock.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) and {"host", "pid", "started"} <= set(said) else {}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the holder may be running: one of another machine is believed."""
    return bool(holder) and (holder["host"] != socket.gethostname() or _started(holder["pid"]) == holder["started"])


def _started(pid: int) -> str | None:
    """When the process began, so that a number used again is not taken for the process; None where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _answering(pid)


def _answering(pid: int) -> str | None:
    """Where there is no /proc: whether a process has this number at all."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return "running"
