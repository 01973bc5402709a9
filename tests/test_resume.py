"""A run given again: it goes on where it stopped, refuses what changed, and loses nothing to kills."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import FAST, content, folder, go

from avpbench.describe import _processor
from avpbench.errors import RecordsError
from avpbench.meta import CLOCKWORK
from avpbench.phases import quality
from avpbench.records import read_samples


def test_a_larger_limit_extends_and_nothing_is_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tmp_path, "limit=6")
    assert "resuming" not in capsys.readouterr().out
    go(tmp_path, "limit=6")
    assert "resuming: 6 of 6 samples and 0 timed repeats are here" in capsys.readouterr().out
    assert go(tmp_path, "limit=11")["num_samples"] == 11
    assert "resuming: 6 of 11 samples" in capsys.readouterr().out
    assert go(tmp_path, "limit=3")["num_samples"] == 3
    assert "resuming: 3 of 3 samples" in capsys.readouterr().out
    go(tmp_path / "other", "limit=11")
    ours, other = (content(folder(path)) for path in (tmp_path, tmp_path / "other"))
    assert [row.pop("batch_size") for row in ours] == [4] * 4 + [2] * 2 + [4] * 2 + [3] * 3
    assert [row.pop("batch_size") for row in other] == [4] * 8 + [3] * 3
    assert ours == other


@pytest.mark.parametrize("key", ["weights", "data", "dtype", "device", "code", "libraries"])
def test_resume_refuses_and_names_what_changed(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path, "limit=4")
    path = folder(tmp_path) / "meta.json"
    meta = json.loads(path.read_text())
    meta["identity"][key] = "something else"
    path.write_text(json.dumps(meta))
    with monkeypatch.context() as patched:
        patched.setattr("avpbench.runner.check", pytest.fail)  # it is refused before the gates take their time
        with pytest.raises(RecordsError, match=f"differs in {key}"):
            go(tmp_path, "limit=5")
    assert len(read_samples(path.parent)) == 4
    assert go(tmp_path, "limit=5", "resume=anyway")["num_samples"] == 5
    assert key in json.loads(path.read_text())["resumed_anyway"][0]["changed"][0]
    assert go(tmp_path, "limit=2", "resume=never")["num_samples"] == 2
    assert len(list(path.parent.glob("before-*/samples.jsonl"))) == 1


@pytest.mark.parametrize("key", CLOCKWORK)
def test_times_do_not_go_on_where_the_clock_is_another(tmp_path: Path, key: str) -> None:
    """Answers do, and what is done already stays done; older records, which do not say, go on."""
    timed = ("latency=on", "latency.runs=1", "latency.against=[]")
    go(tmp_path, "limit=2", "latency.repeats=1", *timed)
    path = folder(tmp_path, *timed) / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {key: "something else"}))
    with pytest.raises(RecordsError, match=f"differs in {key} .something else then"):
        go(tmp_path, "limit=2", "latency.repeats=2", *timed)
    assert go(tmp_path, "limit=3", "latency.repeats=1", *timed)["num_samples"] == 3
    path.write_text(json.dumps(meta | {key: None}))
    assert go(tmp_path, "limit=3", "latency.repeats=2", *timed)["num_blocks"] == 2


def test_a_processor_is_named_with_its_make() -> None:
    """Machines of one provider may all say the same name, with and without bfloat16 products."""
    told = Path("/proc/cpuinfo")
    if not told.exists() or "model name" not in told.read_text():
        pytest.skip("the system does not say what its CPU is")
    name = re.search(r"^model name\s*: (.*)$", told.read_text(), re.MULTILINE)
    model = re.search(r"^model\s*: (\d+)$", told.read_text(), re.MULTILINE)
    assert name
    assert model
    assert re.fullmatch(rf"{re.escape(name[1])} \(family \d+, model {model[1]}\)", str(_processor()))


def test_earlier_sessions_stay_on_record(tmp_path: Path) -> None:
    go(tmp_path, "limit=2")
    path = folder(tmp_path) / "meta.json"
    first = json.loads(path.read_text())
    go(tmp_path, "limit=4", "gates=off")
    go(tmp_path, "limit=5", "gates=off")
    meta = json.loads(path.read_text())
    assert [len(session["gates"]) for session in meta["earlier"]] == [6, 0]
    assert meta["earlier"][0]["began"] == first["began"]
    assert meta["earlier"][0]["versions"] == first["versions"]


def test_a_stop_asked_for_in_the_last_block_stops_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell is whole, and yet a multirun must not start its next one."""
    run_chain = quality.run_chain

    def interrupted(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return run_chain(*args)

    monkeypatch.setattr(quality, "run_chain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "limit=4")
    assert json.loads((folder(tmp_path) / "summary.json").read_text())["num_samples"] == 4


def test_a_folder_of_another_cell_is_refused(tmp_path: Path) -> None:
    go(tmp_path, "limit=2")
    path = folder(tmp_path) / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"cell": "another"}))
    with pytest.raises(RecordsError, match="holds cell another"):
        go(tmp_path, "limit=2")


def command(results: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "avpbench", *FAST, f"results={results}", *words]


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    words = ("limit=90", "batch_size=2", "gates=off")
    go(tmp_path / "calm", *words)
    wanted = content(folder(tmp_path / "calm", *words))
    path = folder(tmp_path / "wild", *words) / "samples.jsonl"
    rng = random.Random(0)
    kills = 0
    while kills < 3:
        before = path.stat().st_size if path.exists() else 0
        job = subprocess.Popen(command(tmp_path / "wild", *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while job.poll() is None and (not path.exists() or path.stat().st_size == before):
            time.sleep(0.02)
        time.sleep(rng.random() / 2)
        kills += job.poll() is None
        job.kill()
        job.wait()
        if job.returncode == 0:
            break
    assert kills >= 1
    subprocess.run(command(tmp_path / "wild", *words), check=True, stdout=subprocess.DEVNULL)
    assert content(path.parent) == wanted


@pytest.mark.slow
def test_ctrl_c_keeps_everything_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = ("limit=1000", "batch_size=2", "gates=off")
    path = folder(tmp_path, *words) / "samples.jsonl"
    job = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    while job.poll() is None and not path.exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    said = job.communicate()[0]
    assert job.returncode == 130
    assert "The same command goes on from there" in said
    assert 0 < len(read_samples(path.parent)) < 1000
    assert not (path.parent / "lock").exists()
