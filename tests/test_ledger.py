"""What jobs leave of themselves: the ledger, failure.json, and what the SLURM launcher makes of a job that died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import has
from runs import folder, go

from avpbench.config import compose
from avpbench.errors import ConfigError, InUse, LaunchFailed, RecordsError
from avpbench.failures import Failure, recorded, write
from avpbench.job import attempt, place
from avpbench.ledger import Entry, Ledger, distinct
from avpbench.lock import held

needs_submitit = pytest.mark.skipif(not has("submitit"), reason="submitit is not installed")


def test_the_ledger_keeps_the_order_of_the_grid_and_counts_failures(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    assert ledger.entries() == []
    entries = [Entry(number, f"seed={number}", "done") for number in range(12)]
    entries[3] = Entry(3, "seed=3", "failed", "/cell", None, Failure.of(ValueError("a\nb")))
    for entry in reversed(entries):
        ledger.write(entry)
    assert ledger.entries() == entries
    assert ledger.num_failed() == 1
    assert ledger.entries()[3].failure.line == "ValueError: a"  # type: ignore[union-attr]


def test_jobs_are_told_apart_by_what_they_do_not_share() -> None:
    assert distinct(["limit=2 seed=0 chain=1", "limit=2 seed=1 chain=1"]) == ["seed=0", "seed=1"]
    assert distinct(["limit=2"]) == ["limit=2"]


def test_a_failure_is_written_and_success_takes_it_away(tmp_path: Path) -> None:
    def fail(error: Exception) -> None:
        with recorded(tmp_path / "cell"):
            raise error

    with pytest.raises(ValueError, match="bad"):
        fail(ValueError("bad"))
    row = json.loads((tmp_path / "cell" / "failure.json").read_text())
    assert (row["error"], row["message"], row["pid"]) == ("ValueError", "bad", os.getpid())
    assert "in fail" in row["traceback"]
    with recorded(tmp_path / "cell"):
        pass
    assert not (tmp_path / "cell" / "failure.json").exists()
    with pytest.raises(InUse):  # another run's cell has not failed
        fail(InUse("held"))
    assert not (tmp_path / "cell" / "failure.json").exists()
    write(Path("/proc/nowhere"), Failure.of(ValueError("x")))  # the table alone tells of it


def test_a_cell_that_is_held_names_its_holder_and_does_not_fail_it(tmp_path: Path) -> None:
    cell = folder(tmp_path)
    with held(cell), pytest.raises(InUse, match=f"in use by process {os.getpid()}"):
        go(tmp_path, "limit=1")
    assert not (cell / "failure.json").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [("isolate=thread", "isolate must be one of null, process"), ("wait_s=-1", "wait_s must"), ("max_failures=0", "max_failures must")],
)
def test_values_are_checked(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        go(tmp_path, word)


def test_a_foreign_line_stops_the_cell_with_its_place(tmp_path: Path) -> None:
    go(tmp_path, "limit=2")
    path = folder(tmp_path) / "samples.jsonl"
    path.write_text(path.read_text() + '{"of": "another program"}\n')
    with pytest.raises(RecordsError, match=r"samples\.jsonl:3: not a SampleRecord .*; repair or remove the line"):
        go(tmp_path, "limit=4")


def test_a_job_says_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert place().endswith(f"process {os.getpid()}, SLURM job 7, CUDA_VISIBLE_DEVICES 1")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")  # the last task of array 7, and 7 alone means all its tasks
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert place().endswith("SLURM job 7_3, CUDA_VISIBLE_DEVICES 1")
    assert Failure.of(ValueError("x")).job == "7_3"


class _Answer:
    """A job of submitit's; with `raises`, its answer lies there and is that error."""

    def __init__(self, folder: Path, raises: Exception | None = None) -> None:
        answer = folder / "result.pkl"
        if raises is not None:
            answer.touch()
        self.paths = type("Paths", (), {"result_pickle": answer if raises else folder / "none", "stdout": folder / "log"})
        self.job_id, self._raises = "5_1", raises

    def results(self) -> list[Any]:
        assert self._raises is not None
        raise self._raises


@needs_submitit
def test_a_job_that_died_is_a_failed_cell_and_one_that_answered_is_left(tmp_path: Path) -> None:
    from hydra_plugins.avpbench_launchers.jobs import _settle

    ledger = Ledger(tmp_path)
    settled = ("done", "failed", "impossible", "left_out")
    for number, state in enumerate(("stopped", "running", *settled)):
        ledger.write(Entry(number, f"seed={number}", state, str(tmp_path / f"cell-{number}")))
    for number in range(7):
        answer = _Answer(tmp_path, OSError("no more room") if number == 0 else None)
        _settle(ledger, number, [f"seed={number}"], answer, lambda job: f"{job.job_id} is gone")
    assert [entry.state for entry in ledger.entries()] == ["failed", "failed", *settled, "failed"]
    assert [entry.given for entry in ledger.entries()] == [f"seed={number}" for number in range(7)]
    assert (
        "5_1 is gone: OSError: no more room; what it had written is kept, and the same command goes on from there; log: "
        in json.loads((tmp_path / "cell-0" / "failure.json").read_text())["message"]
    )
    assert not (tmp_path / "cell-4").exists()
    assert "5_1 is gone; what it had written is kept" in json.loads((tmp_path / "cell-1" / "failure.json").read_text())["message"]
    assert LaunchFailed.__name__ == ledger.entries()[6].failure.error  # type: ignore[union-attr]


@needs_submitit
@pytest.mark.parametrize(
    ("state", "requeued"), [("RUNNING", [15]), ("CANCELLED", []), ("COMPLETING", []), ("PENDING", []), ("TIMEOUT", [])]
)
def test_only_a_job_that_slurm_means_to_go_on_is_requeued(monkeypatch: pytest.MonkeyPatch, state: str, requeued: list[int]) -> None:
    from hydra_plugins.avpbench_launchers import jobs

    asked: list[int] = []
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(jobs, "_shown", lambda job: {"JobState": state} if job == "7" else {})
    jobs._on_terminated(lambda number, _frame: asked.append(number))(15, None)
    assert asked == requeued
    jobs._on_terminated(0)(15, None)  # nobody there who could requeue


def test_without_submitit_hydra_finds_no_launcher_and_no_fault() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "sys.modules['hydra_plugins.hydra_submitit_launcher'] = None\n"
        "import hydra_plugins.avpbench_launchers.jobs as jobs; print(jobs._Jobs.__mro__[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "object" in done.stdout


def test_a_config_that_names_no_cell_is_a_failure_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    came = attempt(compose(["chain=${nope}"]), [], explain=False)
    assert isinstance(came, Failure)
    assert "nope" in came.line
    assert "Traceback" not in capsys.readouterr().err
