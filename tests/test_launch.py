"""Multiruns by every launcher that this machine can run, and what they leave: the same cells, one ledger, one table of failures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import has
from test_run import FAST, content, folder, go

from avpbench.errors import ConfigError, InUse, LaunchFailed, RecordsError
from avpbench.failures import Failure, recorded, write
from avpbench.job import place
from avpbench.launch import check_launcher, sweep_folder
from avpbench.ledger import Entry, Ledger, distinct
from avpbench.lock import held

HERE = Path(__file__).resolve().parent
ENV = os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parent}", "OMP_NUM_THREADS": "1"}
DYING = ("tracker._target_=slow_tracker.Slow", "+tracker.dies_after=2")


def multirun(results: Path, *words: str, env: dict[str, str] = ENV) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "avpbench", "-m", *FAST, f"results={results}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=results.parent)


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not has(module), reason=f"{module} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("basic"),
        pytest.param("slurm_local", marks=needs("submitit")),
        pytest.param("joblib", marks=needs("joblib")),
    ],
)
def test_every_launcher_leaves_the_same_cells_and_lists_what_failed(tmp_path: Path, launcher: str) -> None:
    results = tmp_path / "results"
    results.mkdir()
    words = ("limit=5", "seed=0,1", "context=0,9999", "gates=off", f"hydra/launcher={launcher}", "tracker=wandb", "tracker.mode=offline")
    done = multirun(results, *words)
    assert done.returncode == 1, done.stderr
    assert "UserWarning" not in done.stderr
    table = done.stdout[done.stdout.index("failed cells") :]
    assert re.findall(r"^(seed=\d context=\d+) +ConfigError: context=9999 does not fit tiny", table, re.MULTILINE) == [
        f"seed={k} context=9999" for k in (0, 1)
    ]
    assert len(re.findall(r"^\d +raw +5 ", done.stdout[done.stdout.index("comparison") :], re.MULTILINE)) == 2
    (sweep,) = (results / ".multirun").iterdir()
    assert [entry.state for entry in Ledger(sweep).entries()] == ["done", "failed"] * 2
    go(tmp_path / "calm", "limit=5", "seed=1", "gates=off")
    cell = folder(results, "seed=1")
    assert content(cell) == content(folder(tmp_path / "calm", "seed=1"))
    failed = folder(results, "seed=1", "context=9999") / "failure.json"
    assert "does not fit" in json.loads(failed.read_text())["traceback"]
    ids = [{p.name.rsplit("-", 2)[1:][1] for p in path.glob("wandb/offline-run-*")} for path in (folder(results), cell)]
    assert [len(found) for found in ids] == [1, 1]  # one W&B run a cell
    assert ids[0] != ids[1]
    if launcher == "slurm_local":
        for log in re.findall(r"job \d+: .*; log: (\S+)", done.stdout):
            assert "avpbench: " in Path(log).read_text()


@pytest.mark.slow
def test_a_cell_whose_process_is_killed_costs_itself_alone(tmp_path: Path) -> None:
    """`isolate=process`: the kill is in that cell's failure.json, the other cells run, and the next run goes on there."""
    words = ("limit=5", "chain=1,2", "gates=off", "batch_size=1", "isolate=process", *DYING)
    done = multirun(tmp_path, *words)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("the cell's process was killed by SIGKILL; the kernel does so when memory runs out") >= 2
    cells = [folder(tmp_path, "batch_size=1", f"chain={chain}") for chain in (1, 2)]
    for cell in cells:
        failure = json.loads((cell / "failure.json").read_text())
        assert failure["error"] == "LaunchFailed"
        assert len((cell / "samples.jsonl").read_text().splitlines()) == 2
    done = multirun(tmp_path, "limit=5", "chain=1,2", "gates=off", "batch_size=1", "isolate=process")
    assert done.returncode == 0, done.stderr
    for cell in cells:
        assert not (cell / "failure.json").exists()
        assert len((cell / "samples.jsonl").read_text().splitlines()) == 5


@pytest.mark.slow
def test_a_cell_in_its_own_process_answers_as_one_in_ours(tmp_path: Path) -> None:
    """The same records, its own peak of memory, and an error's own words."""
    words = [sys.executable, "-m", "avpbench", *FAST, "limit=5", "gates=off", "isolate=process"]
    done = subprocess.run([*words, f"results={tmp_path}"], env=ENV, capture_output=True, text=True, check=True)
    assert "records: " in done.stdout
    go(tmp_path / "calm", "limit=5", "gates=off")
    assert content(folder(tmp_path)) == content(folder(tmp_path / "calm"))
    done = subprocess.run([*words, "context=9999"], env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "\navpbench: context=9999 does not fit tiny" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_after_max_failures_the_rest_is_left_out(tmp_path: Path) -> None:
    done = multirun(tmp_path, "limit=2", "context=9997,9998,9999,0", "gates=off", "max_failures=2")
    assert done.returncode == 1
    table = done.stdout[done.stdout.index("failed cells") :]
    assert re.findall(r"^context=(\d+) +(\w+)", table, re.MULTILINE) == [
        ("9997", "ConfigError"), ("9998", "ConfigError"), ("9999", "left"), ("0", "left"),
    ]  # fmt: skip
    assert not (tmp_path / "adhoc" / folder(tmp_path).name).exists()


@pytest.mark.slow
def test_a_defect_is_told_with_its_traceback_and_the_other_cells_run(tmp_path: Path) -> None:
    done = multirun(tmp_path, "limit=2", "seed=0,1", "gates=off", "tracker._target_=slow_tracker.Slow", "+tracker.seconds=none")
    assert done.returncode == 1
    assert done.stderr.count("TypeError") >= 2
    assert "this is a defect of avpbench" in done.stderr
    assert done.stdout[done.stdout.index("failed cells") :].count("TypeError") == 2
    failure = json.loads((folder(tmp_path, "seed=1") / "failure.json").read_text())
    assert "slow_tracker.py" in failure["traceback"]


@pytest.mark.slow
@needs("submitit")
def test_without_a_scheduler_there_is_one_message(tmp_path: Path) -> None:
    done = multirun(tmp_path, "limit=1", "seed=0,1", "hydra/launcher=slurm", env=ENV | {"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert 'avpbench: hydra/launcher=slurm: Could not detect "srun"' in done.stderr
    assert "slurm_local" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_results_folder_that_cannot_be_written_is_one_message() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "avpbench", "-m", "seed=0,1", "results=/proc/x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "avpbench: cannot make /proc/x/.multirun/" in done.stderr
    assert "choose another folder with results=DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_read_only_results_folder_is_one_message(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a read-only folder here")
    try:
        done = multirun(tmp_path, "seed=0,1")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert done.returncode == 1
    assert f"avpbench: cannot make {tmp_path}/.multirun" in done.stderr
    assert "Read-only file system; choose another folder with results=DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_launcher_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launcher(["hydra/launcher=basic", "chain=2"])
    with pytest.raises(ConfigError, match="unknown hydra/launcher=slurn; did you mean slurm"):
        check_launcher(["hydra/launcher=slurn"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=ray needs ray: pip install 'avpbench\[ray\]'"):
        check_launcher(["hydra/launcher=ray"])


def test_each_multirun_has_a_folder_of_its_own_in_its_results() -> None:
    assert sweep_folder(["results=/a/b", "-m", "chain=2"]).parent == Path("/a/b/.multirun")
    assert sweep_folder(["-m"]).parent == Path("results/runs/.multirun").absolute()
    assert sweep_folder(["hydra.sweep.dir=/c"]) == Path("/c")


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
    """A job of submitit's whose answer lies there."""

    def __init__(self, folder: Path) -> None:
        self.paths = type("Paths", (), {"result_pickle": folder / "none", "stdout": folder / "log"})
        self.job_id = "5_1"

    def results(self) -> list[Any]:
        return []


@needs("submitit")
def test_a_job_that_died_is_a_failed_cell_and_one_that_answered_is_left(tmp_path: Path) -> None:
    from hydra_plugins.avpbench_launchers.jobs import _settle

    ledger = Ledger(tmp_path)
    ledger.write(Entry(0, "seed=0", "done"))
    ledger.write(Entry(1, "seed=1", "running", str(tmp_path / "cell")))
    for number in range(3):
        _settle(ledger, number, [f"seed={number}"], _Answer(tmp_path), lambda job: f"{job.job_id} is gone")
    states = {entry.number: (entry.given, entry.state) for entry in ledger.entries()}
    assert states == {0: ("seed=0", "done"), 1: ("seed=1", "failed"), 2: ("seed=2", "failed")}
    assert "5_1 is gone; log: " in json.loads((tmp_path / "cell" / "failure.json").read_text())["message"]
    assert LaunchFailed.__name__ == ledger.entries()[2].failure.error  # type: ignore[union-attr]


@needs("submitit")
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENV)
    assert "object" in done.stdout
