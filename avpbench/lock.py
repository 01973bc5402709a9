"""A folder of records belongs to one run at a time, on a file system that many machines may share.

Taking it is a hard link to a name that must not exist: atomic on NFS too, where `flock` may mean nothing. The holder
touches the file while it lives. A holder of this machine is asked of the kernel; one of another machine is dead when
the file has not been touched for STALE_S of the observer's own clock, so no two clocks are compared. A holder that was
suspended and declared dead finds that out before it writes the next record (`Hold.confirm`).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from avpbench.errors import InUse, RecordsError
from avpbench.failures import scheduler_job
from avpbench.meter import now_s
from avpbench.progress import say

BEAT_S = 5.0
STALE_S = 60.0
_LOOK_S = 0.5
_KEYS = {"host", "where", "pid", "started", "token"}


@final
@dataclass(frozen=True, slots=True)
class Hold:
    """A lock that is ours."""

    lock: Path
    mine: dict[str, Any]
    _done: threading.Event = field(default_factory=threading.Event)

    def confirm(self) -> None:
        """Raises InUse where another run has taken the folder: this one was silent for too long."""
        for _ in range(3):
            holder = _read(self.lock)
            if holder.get("token") == self.mine["token"]:
                return
            time.sleep(_LOOK_S)  # somebody who comes too late may put it back
        raise InUse(
            f"{self.lock.parent} was taken over by {_who(holder)} while this process was silent for more than {STALE_S:g} s;"
            " nothing more is written here. Wait for the other, then run the same command again"
        )

    def beat(self) -> None:
        """Touches the file until the lock is released; what is not ours any more is left alone."""
        while not self._done.wait(BEAT_S):
            with suppress(OSError):
                if _read(self.lock).get("token") == self.mine["token"]:
                    os.utime(self.lock)

    def release(self) -> None:
        """Gives the folder back."""
        self._done.set()
        if _read(self.lock).get("token") == self.mine["token"]:
            self.lock.unlink(missing_ok=True)


@contextmanager
def held(folder: Path, wait_s: float = 0, check_stop: Callable[[], None] = lambda: None) -> Iterator[Hold]:
    """Makes the folder and holds it for this process; waits so long for another run that has it, while `check_stop` does not raise.

    Raises InUse, naming the holder, where that one still runs then, and RecordsError where nothing can be written. A lock
    that a dead process left is taken over.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hold = Hold(folder / "lock", _me())
        _take(hold, wait_s, check_stop)
    except OSError as error:
        raise RecordsError(
            f"cannot write to {folder}, or make a hard link there: {error.strerror}; choose another folder with results=DIR"
        ) from error
    threading.Thread(target=hold.beat, daemon=True, name="lock").start()
    try:
        yield hold
    finally:
        hold.release()


def holder_of(folder: Path) -> str | None:
    """Who runs in a folder, as far as can be told without waiting; None where nobody does."""
    lock = folder / "lock"
    holder = _read(lock)
    if not holder:
        return None
    if holder["where"] == _where():
        return _who(holder) if _started(holder["pid"]) == holder["started"] else None
    with suppress(OSError):
        silent_s = time.time() - lock.stat().st_mtime
        return _who(holder) if silent_s < STALE_S else f"{_who(holder)}, silent for {silent_s:.0f} s"
    return None


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(), "where": _where(), "pid": os.getpid(), "started": _started(os.getpid()),
        "token": uuid.uuid4().hex, "job": scheduler_job(),
    }  # fmt: skip


def _where() -> str:
    """The boot and the process namespace that a process number belongs to: two containers may share a host's name."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return socket.gethostname()


def _who(holder: dict[str, Any]) -> str:
    job = f" (SLURM job {holder['job']})" if holder.get("job") else ""
    return f"process {holder['pid']} on {holder['host']}{job}" if holder else "nobody"


def _take(hold: Hold, wait_s: float, check_stop: Callable[[], None]) -> None:
    """Links a ticket of ours to the lock's name, which fails where the name exists."""
    ticket = hold.lock.with_name(f"lock.{hold.mine['token']}")
    until = now_s() + wait_s
    told = False
    ticket.write_text(json.dumps(hold.mine))
    try:
        while True:
            check_stop()
            try:
                os.link(ticket, hold.lock)
                return
            except FileExistsError:
                if os.stat(ticket).st_nlink == 2:  # NFS: it was linked, and the answer got lost
                    return
            holder = _read(hold.lock)
            if not _alive(hold.lock, holder, check_stop):
                if _read(hold.lock) == holder:
                    _clear(hold, holder.get("token"))
            elif now_s() >= until:
                raise InUse(
                    f"{hold.lock.parent} is in use by {_who(holder)}; wait for it (wait_s=SECONDS does), or stop it and run the"
                    " same command again"
                )
            elif not told:
                say(f"waiting up to {wait_s:g} s for {_who(holder)}, which runs this cell")
                told = True
            time.sleep(_LOOK_S * told)
    finally:
        ticket.unlink(missing_ok=True)


def _clear(hold: Hold, token: str | None) -> None:
    """Takes the dead holder's lock away, which names `token`.

    The lock is renamed before it goes: of two that find it dead, one renames it, and one that was so late that it
    renamed a living holder's puts that back.
    """
    aside = hold.lock.with_name(f"lock.dead.{hold.mine['token']}")
    try:
        os.rename(hold.lock, aside)
    except FileNotFoundError:
        return
    try:
        if _read(aside).get("token") != token:
            with suppress(FileExistsError):  # the holder of that one finds out in `confirm`
                os.link(aside, hold.lock)
    finally:
        aside.unlink(missing_ok=True)


def _read(lock: Path) -> dict[str, Any]:
    """What the lock says; empty where it is gone or says nothing."""
    try:
        said = json.loads(lock.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) and set(said) >= _KEYS else {}


def _alive(lock: Path, holder: dict[str, Any], check_stop: Callable[[], None]) -> bool:
    """Whether the holder runs and still holds. One of another machine is watched for up to STALE_S."""
    if not holder:
        return False
    if holder["where"] == _where():
        return bool(_started(holder["pid"]) == holder["started"])
    say(f"the cell is held by {_who(holder)}: watching up to {STALE_S:g} s whether it lives")
    began, first = now_s(), _touched(lock)
    while now_s() - began < STALE_S:
        check_stop()
        time.sleep(_LOOK_S)
        if (now := _touched(lock)) != first:
            return now is not None and _read(lock).get("token") == holder["token"]
    return False


def _touched(lock: Path) -> int | None:
    """When the server says it was touched last; opening it makes an NFS client ask."""
    try:
        with lock.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When the process began, so that a number used again is not taken for the process; None where it is gone."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if state in "ZX" else rest[18]  # a zombie is dead, whoever has yet to notice
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _answering(pid)


def _answering(pid: int) -> str | None:
    """Where there is no /proc: whether a process has this number at all."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return "running"
