"""A folder belongs to one run at a time, on one machine and on a file system of many."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from runs import folder, go

from avpbench import lock
from avpbench.errors import InUse, RecordsError
from avpbench.lock import held
from avpbench.phases import quality
from avpbench.records import read_samples


def holder(**changes: object) -> dict[str, Any]:
    """What a lock of this process would say, but for the changes."""
    return lock._me() | changes


def leave(folder: Path, **changes: object) -> Path:
    path = folder / "lock"
    path.write_text(json.dumps(holder(**changes)))
    return path


@pytest.fixture
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_S", 0.05), ("STALE_S", 1.0), ("_LOOK_S", 0.02)):
        monkeypatch.setattr(lock, name, seconds)


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    with held(tmp_path / "cell"), pytest.raises(InUse, match=f"in use by process {os.getpid()} on"), held(tmp_path / "cell"):
        pass
    with held(tmp_path / "cell"):
        assert (tmp_path / "cell" / "lock").exists()
    assert list((tmp_path / "cell").iterdir()) == []


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match="choose another folder"), held(tmp_path / "file" / "below"):
        pass


def test_the_job_of_the_holder_is_named(tmp_path: Path) -> None:
    leave(tmp_path, job="17")
    with pytest.raises(InUse, match=r"process \d+ on .* \(SLURM job 17\)"), held(tmp_path):
        pass


def test_a_dead_holder_is_taken_over(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    path = leave(tmp_path, pid=gone.pid)
    with held(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_reused_process_number_is_not_the_holder(tmp_path: Path) -> None:
    path = leave(tmp_path, started="0")
    with held(tmp_path):
        assert json.loads(path.read_text())["started"] != "0"


@pytest.mark.parametrize("said", ["", "{", "[]", "{}"])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path: Path, said: str) -> None:
    (tmp_path / "lock").write_text(said)
    with held(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    """As where the first process of a container reaps nobody."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    leave(tmp_path, pid=child.pid, started=Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    assert lock.holder_of(tmp_path) is None
    with held(tmp_path):
        pass
    child.wait()


def test_who_waits_for_a_lock_can_be_stopped(tmp_path: Path) -> None:
    asked = iter([None, None, KeyboardInterrupt()])

    def check_stop() -> None:
        if (stop := next(asked)) is not None:
            raise stop

    with held(tmp_path), pytest.raises(KeyboardInterrupt), held(tmp_path, 60, check_stop):
        pass


def test_of_two_that_find_a_dead_lock_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process takes over between our look at the dead lock and our removing it."""
    living = subprocess.Popen(["sleep", "30"])
    leave(tmp_path, started="0")
    rename = os.rename
    taken = []

    def late(source: Path, target: Path) -> None:
        if not taken:
            Path(source).write_text(json.dumps(holder(pid=living.pid, started=lock._started(living.pid), token="living")))
            taken.append(1)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    try:
        with pytest.raises(InUse, match=f"in use by process {living.pid}"), held(tmp_path):
            pass
        assert json.loads((tmp_path / "lock").read_text())["pid"] == living.pid
    finally:
        living.kill()
        living.wait()


def test_a_link_whose_answer_got_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS server may have linked although the client was told that the name exists."""
    link = os.link

    def unheard(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", unheard)
    with held(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.usefixtures("_brisk")
def test_a_holder_elsewhere_that_is_silent_is_dead(tmp_path: Path) -> None:
    """Whatever its clock says: the time of its last touch is not compared with ours."""
    path = leave(tmp_path, host="other-node", where="other-boot", token="silent")
    os.utime(path, (time.time() + 9999,) * 2)
    began = time.monotonic()
    with held(tmp_path):
        assert json.loads(path.read_text())["host"] == socket.gethostname()
    assert time.monotonic() - began >= 1.0


@pytest.mark.usefixtures("_brisk")
def test_a_holder_elsewhere_that_touches_its_lock_lives(tmp_path: Path) -> None:
    path = leave(tmp_path, host="other-node", where="other-boot", pid=1, token="far")
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InUse, match="process 1 on other-node"), held(tmp_path):
            pass
    finally:
        done.set()
        thread.join()
    assert json.loads(path.read_text())["token"] == "far"


@pytest.mark.usefixtures("_brisk")
def test_the_second_waits_as_long_as_it_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = held(tmp_path)
    first.__enter__()
    threading.Timer(0.5, lambda: first.__exit__(None, None, None)).start()
    with held(tmp_path, wait_s=20):
        pass
    assert f"waiting up to 20 s for process {os.getpid()}" in capsys.readouterr().out
    with held(tmp_path), pytest.raises(InUse), held(tmp_path, wait_s=0.2):
        pass


@pytest.mark.usefixtures("_brisk")
def test_a_holder_that_was_declared_dead_finds_out_before_it_writes(tmp_path: Path) -> None:
    with held(tmp_path) as hold:
        hold.confirm()
        leave(tmp_path, host="other-node", where="other-boot", token="thief")
        with pytest.raises(InUse, match=r"taken over by process .* on other-node"):
            hold.confirm()
        (tmp_path / "lock").unlink()
        with pytest.raises(InUse, match="taken over by nobody"):
            hold.confirm()
        leave(tmp_path, host="other-node", where="other-boot", token="thief")
    assert json.loads((tmp_path / "lock").read_text())["token"] == "thief"  # not ours to release


@pytest.mark.usefixtures("_brisk")
def test_a_run_whose_folder_was_taken_over_writes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspended while it computed its second block, and taken for dead."""
    run_chain = quality.run_chain
    blocks = []

    def suspended(*args: Any) -> Any:
        blocks.append(1)
        if len(blocks) == 2:
            leave(folder(tmp_path), host="other-node", where="other-boot", token="thief")
        return run_chain(*args)

    monkeypatch.setattr(quality, "run_chain", suspended)
    with pytest.raises(InUse, match="taken over"):
        go(tmp_path, "limit=8", "gates=off")
    assert len(read_samples(folder(tmp_path))) == 4
    assert not (folder(tmp_path) / "failure.json").exists()


@pytest.mark.usefixtures("_brisk")
def test_the_holder_touches_its_lock(tmp_path: Path) -> None:
    with held(tmp_path):
        before = (tmp_path / "lock").stat().st_mtime_ns
        time.sleep(0.5)
        assert (tmp_path / "lock").stat().st_mtime_ns > before


def test_a_container_with_the_same_host_name_is_another_place(tmp_path: Path) -> None:
    """A process number means nothing in another namespace, and this one's may be in use there."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process namespaces here")
    code = "from avpbench import lock; print(lock._where())"
    inside = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert inside.stdout.strip().endswith("]")
    assert inside.stdout.strip() != lock._where()


@pytest.mark.slow
def test_many_processes_that_die_at_any_moment_never_meet(tmp_path: Path) -> None:
    """Each holder makes a file that must not exist, and takes it away; holders are killed at random moments."""
    code = f"""
import os, sys, time
from pathlib import Path
from avpbench.errors import InUse
from avpbench.lock import held
here = Path({str(tmp_path)!r})
for turn in range(10**6):
    try:
        with held(here / "cell"):
            mine = here / f"inside.{{os.getpid()}}"
            mine.write_text("")
            time.sleep(0.002)
            others = [p for p in here.glob("inside.*") if p != mine and Path("/proc/" + p.suffix[1:]).exists()]
            if others:
                time.sleep(0.2)  # one that was killed inside is gone by then
                if any(Path("/proc/" + p.suffix[1:] + "/cmdline").read_bytes() for p in others if p.exists()):
                    (here / "met").write_text(f"{{others}} {{mine}}")
            mine.unlink()
            with (here / "turns").open("a") as file:
                file.write("x")
    except InUse:
        time.sleep(0.001)
"""
    rng = random.Random(0)
    start = lambda: subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)  # noqa: E731
    workers = [start() for _ in range(4)]
    until = time.monotonic() + 30
    kills = 0
    while time.monotonic() < until and kills < 12:
        time.sleep(0.5 + rng.random())
        if (tmp_path / "turns").exists():
            victim = workers.pop(rng.randrange(len(workers)))
            victim.kill()
            victim.wait()
            (tmp_path / f"inside.{victim.pid}").unlink(missing_ok=True)
            kills += 1
            workers.append(start())
    for worker in workers:
        worker.kill()
        worker.wait()
    assert kills >= 3
    assert not (tmp_path / "met").exists(), (tmp_path / "met").read_text()
    assert (tmp_path / "turns").stat().st_size > 10
