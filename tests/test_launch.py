"""Multiruns by every launcher that this machine can run, and what they leave: the same cells, one ledger, one table of failures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import has
from runs import FAST, content, folder, go

from avpbench.errors import ConfigError
from avpbench.hints import check
from avpbench.launch import check_launcher, sweep_folder
from avpbench.ledger import Ledger
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
    words = (
        "limit=5",
        "seed=0,1",
        "model.path=null,/nowhere",
        "model.name=mine",
        "gates=off",
        f"hydra/launcher={launcher}",
        "tracker=wandb",
        "tracker.mode=offline",
    )
    done = multirun(results, *words)
    assert done.returncode == 1, done.stderr
    assert "UserWarning" not in done.stderr
    assert launcher != "basic" or "Traceback" not in done.stderr
    table = done.stdout[done.stdout.index("failed cells") :]
    assert sorted(re.findall(r"^(seed=\d) model.path=/nowhere +NotFound: no model: looked for", table, re.MULTILINE)) == [
        "seed=0",
        "seed=1",
    ]
    assert len(re.findall(r"^\d +quantized +5 ", done.stdout[done.stdout.index("comparison") :], re.MULTILINE)) == 2
    (sweep,) = (results / ".multirun").iterdir()
    assert sorted(entry.state for entry in Ledger(sweep).entries()) == ["done", "done", "failed", "failed"]
    go(tmp_path / "calm", "limit=5", "seed=1", "model.name=mine", "gates=off")
    cell = folder(results, "seed=1", "model.name=mine")
    assert content(cell) == content(folder(tmp_path / "calm", "seed=1", "model.name=mine"))
    failed = folder(results, "seed=1", "model.path=/nowhere", "model.name=mine") / "failure.json"
    assert "NotFound" in json.loads(failed.read_text())["traceback"]
    ids = [{p.name.rsplit("-", 2)[1:][1] for p in path.glob("wandb/offline-run-*")} for path in (folder(results, "model.name=mine"), cell)]
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
    done = multirun(tmp_path, "limit=2", "model.path=/a,/b,/c,null", "model.name=mine", "gates=off", "max_failures=2")
    assert done.returncode == 1
    table = done.stdout[done.stdout.index("failed cells") :]
    told = re.findall(r"^model.path=(\S+) +(\w+)", table, re.MULTILINE)
    assert [why for _, why in told] == ["NotFound", "NotFound", "left", "left"], told
    assert not (tmp_path / "adhoc" / folder(tmp_path, "model.name=mine").name / "samples.jsonl").exists()


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


def test_a_launcher_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_launcher(["hydra/launcher=basic", "chain=2"])
    check(["hydra/launcher=basic"])
    with pytest.raises(ConfigError, match="unknown hydra/launcher=slurn; did you mean slurm"):
        check(["hydra/launcher=slurn"])
    with pytest.raises(ConfigError, match=r"has no key hydra\.launcher\.partion; did you mean hydra\.launcher\.partition"):
        check(["hydra/launcher=slurm", "hydra.launcher.partion=debug"])
    check(["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0", "hydra.launcher.ray.init.address=auto"])
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "mine.yaml").write_text("_target_: mine\n")
    check([f"--config-dir={tmp_path}", "hydra/launcher=mine"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=ray needs ray: pip install 'avpbench\[ray\]'"):
        check_launcher(["hydra/launcher=ray"])


def test_each_multirun_has_a_folder_of_its_own_in_its_results() -> None:
    assert sweep_folder(["results=/a/b", "-m", "chain=2"]).parent == Path("/a/b/.multirun")
    assert sweep_folder(["-m"]).parent == Path("results/runs/.multirun").absolute()
    assert sweep_folder(["results='/a b'", "-m"]).parent == Path("/a b/.multirun")
    assert sweep_folder(["hydra.sweep.dir=/c"]) == Path("/c")


def test_ray_is_not_asked_for_what_the_machine_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("avpbench.estimate.has_gpu", lambda: False)
    with pytest.raises(ConfigError, match=r"this machine has none; hydra\.launcher\.ray\.remote\.num_gpus=0"):
        check_launcher(["hydra/launcher=ray"])
    for more in ("hydra.launcher.ray.remote.num_gpus=0", "hydra.launcher.ray.init.address=auto"):
        check_launcher(["hydra/launcher=ray", more])
    monkeypatch.setattr("avpbench.estimate.has_gpu", lambda: True)
    check_launcher(["hydra/launcher=ray"])


@pytest.mark.slow
@needs("joblib")
def test_a_launcher_that_loses_a_worker_is_one_message_and_its_cells_have_failed(tmp_path: Path) -> None:
    slow = ("tracker._target_=slow_tracker.Slow", "+tracker.dies_after=1")
    done = multirun(tmp_path, "seed=0,1", *slow, "hydra/launcher=joblib")
    assert done.returncode == 1
    assert "avpbench: the launcher gave up: TerminatedWorkerError" in done.stderr
    assert "isolate=process" in done.stderr
    assert "Traceback" not in done.stderr.split("avpbench: the launcher gave up")[-1]
    assert "failed cells" in done.stdout
    assert len(list(tmp_path.glob("adhoc/*/failure.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["isolate=process"], ["hydra/launcher=slurm_local", "hydra.launcher.gpus_per_node=0"]])
def test_a_cell_records_the_words_that_give_it_whatever_launched_it(tmp_path: Path, more: list[str]) -> None:
    pytest.importorskip("submitit")
    assert multirun(tmp_path, "limit=1", "seed=0,1", *more).returncode == 0
    for seed in (0, 1):
        meta = json.loads((folder(tmp_path, f"seed={seed}") / "meta.json").read_text())
        assert meta["command"][0] == "avpbench"
        assert f"seed={seed}" in meta["command"]
        assert not [word for word in meta["command"] if "hydra" in word]


@pytest.mark.slow
def test_cells_that_others_run_have_not_failed(tmp_path: Path) -> None:
    with held(folder(tmp_path, "seed=0")):
        done = multirun(tmp_path, "limit=1", "seed=0,1", "max_failures=1")
    assert done.returncode == 1
    assert "cells that did not end here" in done.stdout
    assert f"in use by process {os.getpid()}" in done.stdout
    assert "failed cells" not in done.stdout
    assert (folder(tmp_path, "seed=1") / "summary.json").exists()
    assert not (folder(tmp_path, "seed=0") / "failure.json").exists()
