"""Stops that lose nothing: Ctrl-C, a scheduler that wants the machine back (SIGTERM, SIGUSR2), a terminal that is closed (SIGHUP)."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from avpbench.progress import say

GRACE_S = 5.0  # for the work in hand, or else for closing
CLOSE_S = 2.0  # then for closing; whoever asked was promised 10 s
_TAKEN = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)


@final
class Preempted(SystemExit):
    """The machine is wanted back. A SystemExit, so that nothing on the way up takes it for a failure of the cell."""


@final
@dataclass(slots=True)
class _Stop:
    """What was asked for so far. `before` are the handlers that were installed when the run began."""

    before: dict[int, Any] = field(default_factory=dict)
    interrupted: bool = False
    received: list[int] = field(default_factory=list)
    overdue: bool = False
    clock: threading.Thread | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    closing: bool = False

    def on_interrupt(self, _signal: int, _frame: object) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        say("stopping after the current block; Ctrl-C again stops at once")

    def on_preemption(self, number: int, _frame: object) -> None:
        """The first one starts the clock, which sends two of its own: they end the work in hand, and closing."""
        if self.overdue and not self.closing:
            self.overdue = False
            raise Preempted(128 + number)
        if number not in self.received:
            self.received.append(number)
        if self.clock is None and not self.closing:
            say(f"{signal.Signals(number).name}: stopping after the current block, or without it in {GRACE_S:g} s")
            self.clock = threading.Thread(target=self._run_clock, args=(number, threading.main_thread().ident), daemon=True)
            self.clock.start()

    def _run_clock(self, number: int, thread: int) -> None:
        for seconds in (GRACE_S, CLOSE_S):
            if self.stopped.wait(seconds):
                return
            self.overdue = True
            signal.pthread_kill(thread, number)

    def check(self) -> None:
        """Raises Preempted or KeyboardInterrupt once a stop was asked for."""
        if self.received:
            raise Preempted(128 + self.received[0])
        if self.interrupted:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Puts the earlier handlers back. What was received goes on to them: a scheduler's library requeues there, and may exit."""
        self.closing = True
        self.stopped.set()
        if self.clock is not None:
            self.clock.join()  # one that rings just now must not ring at the earlier handlers
        for number, handler in self.before.items():
            signal.signal(number, handler)
        for number in self.received:
            if callable(handler := self.before[number]):
                handler(number, None)
        if self.received:
            raise Preempted(128 + self.received[0])


@contextmanager
def stop_requested() -> Iterator[Callable[[], None]]:
    """Yields a check that raises Preempted or KeyboardInterrupt once a stop was asked for; phases call it between blocks.

    A preempted block that is not done after GRACE_S is given up where it is, and so is closing after CLOSE_S more. At the end
    the signals received are handed to the handlers that were there before, and Preempted is raised. A signal that was
    ignored before stays ignored.
    """
    stop = _Stop()
    try:
        stop.before[signal.SIGINT] = signal.signal(signal.SIGINT, stop.on_interrupt)
    except ValueError:  # not the main thread: whoever owns it decides
        yield stop.check
        return
    for number in _TAKEN:
        if signal.getsignal(number) != signal.SIG_IGN:
            stop.before[number] = signal.signal(number, stop.on_preemption)
    try:
        yield stop.check
    finally:
        stop.close()


@contextmanager
def relayed(send: Callable[[int], None]) -> Iterator[list[int]]:
    """Passes SIGINT, SIGTERM, SIGUSR2 and SIGHUP on to `send` while a child does the work; yields the list of those received.

    At the end they go to the handlers that were there before, as in `stop_requested`.
    """
    stop = _Stop()

    def pass_on(number: int, _frame: object) -> None:
        stop.received.append(number)
        send(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *_TAKEN):
            if signal.getsignal(number) != signal.SIG_IGN:
                stop.before[number] = signal.signal(number, pass_on)
    try:
        yield stop.received
    finally:
        stop.close()


def end_with_parent() -> None:
    """Whoever waits for this process may be killed: then this one gets SIGTERM."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
