"""SIGTERM and SIGUSR2: the block in hand is finished or given up in time, all is told, and the earlier handlers get their turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import FAST, content, folder, go, heard

from avpbench import stop
from avpbench.phases import quality
from avpbench.records import read_samples
from avpbench.stop import Preempted, relayed, stop_requested

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
SLOW = ("tracker._target_=slow_tracker.Slow", "gates=off", "batch_size=1")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_block_is_finished_and_the_earlier_handler_gets_the_signal(number: int) -> None:
    heard: list[int] = []
    signal.signal(number, lambda n, _frame: heard.append(n))
    done: list[str] = []

    def block() -> None:
        with stop_requested() as check:
            check()
            signal.raise_signal(number)
            done.append("finished")
            assert heard == []
            check()
            done.append("went on")

    with pytest.raises(Preempted) as caught:
        block()
    assert done == ["finished"]
    assert heard == [number]
    assert caught.value.code == 128 + number
    signal.raise_signal(number)
    assert heard == [number, number]


def test_a_signal_after_the_last_check_is_not_lost() -> None:
    with pytest.raises(Preempted), stop_requested():
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("busy", [lambda: time.sleep(20), lambda: [time.sleep(0.001) for _ in range(10000)]], ids=["asleep", "at work"])
def test_a_block_that_lasts_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, busy: Any) -> None:
    monkeypatch.setattr(stop, "GRACE_S", 0.3)
    began = time.monotonic()

    def block() -> None:
        with stop_requested():
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGUSR2)  # a second one does not shorten it
            assert time.monotonic() - began < 0.2
            busy()

    with pytest.raises(Preempted):
        block()
    assert 0.3 <= time.monotonic() - began < 3


def test_every_signal_reaches_its_handler_in_order_and_one_that_exits_decides() -> None:
    heard: list[int] = []

    def leave(number: int, _frame: object) -> None:
        heard.append(number)
        raise SystemExit(7)

    signal.signal(signal.SIGTERM, lambda n, _frame: heard.append(n))
    signal.signal(signal.SIGUSR2, leave)

    def both() -> None:
        with stop_requested():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGUSR2)

    with pytest.raises(SystemExit) as caught:
        both()
    assert heard == [signal.SIGTERM, signal.SIGUSR2]
    assert caught.value.code == 7


def test_what_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with stop_requested() as check:
        signal.raise_signal(signal.SIGTERM)
        check()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_signals_are_passed_on_while_a_child_works() -> None:
    sent: list[int] = []

    def both() -> None:
        with relayed(sent.append):
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Preempted):
        both()
    assert sent == [signal.SIGUSR2, signal.SIGTERM]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with SIGINT ignored
    try:
        with pytest.raises(KeyboardInterrupt), relayed(sent.append):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_preempted_run_keeps_its_samples_tells_its_tracker_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_chain = quality.run_chain

    def disturbed(*args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return run_chain(*args)

    with monkeypatch.context() as patched:
        patched.setattr(quality, "run_chain", disturbed)
        with pytest.raises(Preempted):
            go(tmp_path, "limit=10", "tracker._target_=slow_tracker.Slow")
    said = capsys.readouterr().out
    assert len(read_samples(folder(tmp_path))) == 4
    assert "stopped; 4 of 10 samples are kept" in said
    assert said.index("tracker: preempted") < said.index("tracker: finish unfinished")
    assert not (folder(tmp_path) / "lock").exists()
    assert not (folder(tmp_path) / "failure.json").exists()
    go(tmp_path, "limit=10")
    go(tmp_path / "calm", "limit=10")
    assert content(folder(tmp_path)) == content(folder(tmp_path / "calm"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "seconds", "closing", "isolate"),
    [(signal.SIGTERM, 30, 30, "null"), (signal.SIGUSR2, 0.5, 0, "process"), (signal.SIGHUP, 0.5, 0, "null")],
)
def test_a_process_is_gone_in_ten_seconds(tmp_path: Path, number: int, seconds: float, closing: float, isolate: str) -> None:
    """Also where a sample lasts longer than that, where a tracker will not close, and where the cell has a process of its own."""
    slow = (f"+tracker.seconds={seconds}", f"+tracker.closing={closing}")
    words = (*FAST, *SLOW, *slow, "limit=50", f"results={tmp_path}", f"isolate={isolate}")
    path = folder(tmp_path, *SLOW[1:]) / "samples.jsonl"
    here = Path(__file__).resolve().parent
    env = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    job = subprocess.Popen([sys.executable, "-m", "avpbench", *words], stdout=subprocess.PIPE, text=True, env=env, preexec_fn=heard)
    while job.poll() is None and not path.exists():
        time.sleep(0.05)
    time.sleep(0.3)
    began = time.monotonic()
    job.send_signal(number)
    said = job.communicate()[0]
    assert time.monotonic() - began < 10
    assert job.returncode == 128 + number
    assert "The same command goes on from there" in said
    assert "tracker: preempted" in said
    assert ("tracker: finish" in said) == (closing == 0)
    assert 0 < len(read_samples(path.parent)) < 50
    assert not (path.parent / "lock").exists()


@pytest.mark.slow
def test_a_cell_of_its_own_process_ends_with_the_one_that_waits_for_it(tmp_path: Path) -> None:
    words = (*FAST, *SLOW, "+tracker.seconds=0.3", "limit=60", f"results={tmp_path}", "isolate=process")
    path = folder(tmp_path, *SLOW[1:]) / "samples.jsonl"
    here = Path(__file__).resolve().parent
    job = subprocess.Popen([sys.executable, "-m", "avpbench", *words], env=os.environ | {"PYTHONPATH": f"{here}:{here.parent}"})
    while job.poll() is None and not path.exists():
        time.sleep(0.05)
    job.kill()
    job.wait()
    until = time.monotonic() + 10
    while (path.parent / "lock").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not (path.parent / "lock").exists()
    assert 0 < len(read_samples(path.parent)) < 60
