"""Jobs under a real SLURM of one node: arrays, GPUs, time limits, requeues, cancelled tasks, refusals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import FAST, content, folder, go, heard
from slurm import missing, slurm

HERE = Path(__file__).resolve().parent
pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
SMALL = ("gates=off", "batch_size=1", "hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("slurm")) as env:
        yield os.environ | env | {"PYTHONPATH": f"{HERE}:{HERE.parent}", "OMP_NUM_THREADS": "1"}


COMMANDS: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    yield
    while COMMANDS:
        COMMANDS.pop().kill()


def started(env: dict[str, str], results: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "avpbench", "-m", *FAST, f"results={results}", "hydra/launcher=slurm", *words]
    COMMANDS.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heard))
    return COMMANDS[-1]


def scontrol(env: dict[str, str], *words: str) -> str:
    return subprocess.run(["scontrol", *words], env=env, capture_output=True, text=True, check=False).stdout


def until(true: object, within_s: float = 120) -> None:
    assert callable(true)
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < within_s
        time.sleep(0.2)


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def ended(env: dict[str, str], job: subprocess.Popen[str], within_s: float = 240) -> str:
    """Waits for the command; a requeued job is told not to wait its two minutes."""
    begin = time.monotonic()
    while job.poll() is None:
        assert time.monotonic() - begin < within_s, job.stdout and (job.kill(), job.stdout.read())
        for number in re.findall(r"JobId=(\d+).*?Reason=BeginTime", scontrol(env, "-o", "show", "jobs")):
            scontrol(env, "update", f"JobId={number}", "StartTime=now")
        time.sleep(0.5)
    assert job.stdout is not None
    return job.stdout.read()


def logs(results: Path, task: int | None) -> str:
    """The log of a task of the only array there, or (None) of the only job."""
    (path,) = results.glob(f".multirun/*/logs/*{'' if task is None else f'_{task}'}_0_log.out")
    return path.read_text()


def test_an_array_runs_a_cell_a_task_each_on_a_gpu_of_its_own(cluster: dict[str, str], tmp_path: Path) -> None:
    slow = ("tracker._target_=slow_tracker.Slow", "+tracker.seconds=1.5")
    job = started(cluster, tmp_path, *SMALL, *slow, "limit=4", "seed=0,1,2,3")
    said = ended(cluster, job)
    assert job.returncode == 0, said
    comparison = said[said.index("comparison") :]
    assert len(re.findall(r"^\d +quantized +4 ", comparison, re.MULTILINE)) == 4
    assert "failed" not in said
    assert sorted(re.findall(r"job \d+_(\d): seed=(\d); log: /", said)) == [(str(k), str(k)) for k in range(4)]
    gpus = [re.search(r"CUDA_VISIBLE_DEVICES (\S+)", logs(tmp_path, k))[1] for k in range(4)]  # type: ignore[index]
    assert sorted(gpus) == ["0", "0", "1", "1"]
    assert gpus[0] != gpus[1]
    go(tmp_path / "calm", *SMALL[:2], "limit=4", "seed=2")
    assert content(folder(tmp_path, *SMALL[:2], "seed=2")) == content(folder(tmp_path / "calm", *SMALL[:2], "seed=2"))


def test_requeued_terminated_and_cancelled_tasks(cluster: dict[str, str], tmp_path: Path) -> None:
    """By `scontrol requeue`, by SIGTERM and by SIGUSR2 a cell goes on where it was; a cancelled one is listed as failed."""
    words = (*SMALL, "limit=30", "tracker._target_=slow_tracker.Slow", "+tracker.seconds=0.5", "hydra.launcher.gpus_per_node=null")
    job = started(cluster, tmp_path, *words, "seed=0,1,2,3")
    cells = [folder(tmp_path, *SMALL[:2], f"seed={seed}") for seed in range(4)]
    until(lambda: all(lines(cell / "samples.jsonl") > 2 for cell in cells))
    (array,) = set(subprocess.run(["squeue", "-h", "-o", "%F"], env=cluster, capture_output=True, text=True, check=True).stdout.split())
    scontrol(cluster, "requeue", f"{array}_0")
    for name, task in (("TERM", 1), ("USR2", 2)):
        subprocess.run(["scancel", f"--signal={name}", f"{array}_{task}"], env=cluster, check=True)
    subprocess.run(["scancel", f"{array}_3"], env=cluster, check=True)
    said = ended(cluster, job)
    assert job.returncode == 1, said
    failed = said[said.index("failed cells") :]
    assert re.search(r"seed=3 .*SLURM job \d+_3 ended CANCELLED", failed)
    assert "seed=0" not in failed
    for task, name in enumerate(("SIGTERM", "SIGTERM", "SIGUSR2")):
        log = logs(tmp_path, task)
        assert f"{name}: stopping after the current block" in log
        assert log.index("tracker: preempted") < log.index("tracker: finish unfinished") < log.index("tracker: finish whole")
        assert "resuming: " in log
        go(tmp_path / "calm", *SMALL[:2], "limit=30", f"seed={task}")
        assert content(cells[task]) == content(folder(tmp_path / "calm", *SMALL[:2], f"seed={task}"))
    assert "Requeued job" not in logs(tmp_path, 0)  # SLURM had done so
    assert "Requeued job" in logs(tmp_path, 1)
    assert not list(tmp_path.glob("adhoc/*/lock*"))
    again = started(cluster, tmp_path, *words, "seed=0,1,2,3")
    said = ended(cluster, again)
    assert again.returncode == 0, said
    assert not list(tmp_path.glob("adhoc/*/failure.json"))


def test_who_interrupts_the_command_is_told_what_goes_on_and_may_give_it_again(cluster: dict[str, str], tmp_path: Path) -> None:
    words = (*SMALL, "limit=12", "tracker._target_=slow_tracker.Slow", "+tracker.seconds=1", "seed=0,1")
    first = started(cluster, tmp_path, *words, "hydra.launcher.array_parallelism=1")
    running = folder(tmp_path, *SMALL[:2], "seed=0")
    until(lambda: lines(running / "samples.jsonl") > 0)
    first.send_signal(signal.SIGINT)
    said = ended(cluster, first)
    assert first.returncode == 130, said
    (array,) = set(subprocess.run(["squeue", "-h", "-o", "%F"], env=cluster, capture_output=True, text=True, check=True).stdout.split())
    assert f"2 jobs run on or wait in the queue; to end them: scancel {array}" in said
    assert "failed cells" not in said
    again = started(cluster, tmp_path, *words, "wait_s=200")
    said = ended(cluster, again)
    assert again.returncode == 0, said
    for seed in (0, 1):
        assert lines(folder(tmp_path, *SMALL[:2], f"seed={seed}") / "samples.jsonl") == 12


def test_a_time_limit_is_hit_and_the_cell_goes_on(cluster: dict[str, str], tmp_path: Path) -> None:
    words = (*SMALL, "limit=80", "tracker._target_=slow_tracker.Slow", "+tracker.seconds=1.5")
    limits = (
        "hydra.launcher.timeout_min=2",
        "hydra.launcher.signal_delay_s=30",
    )  # SLURM sends it 30 to 90 s after the start; the samples take 120
    job = started(cluster, tmp_path, *words, *limits, "seed=0")
    said = ended(cluster, job, 400)
    assert job.returncode == 0, said
    log = logs(tmp_path, None)
    assert "SIGUSR2: stopping after the current block" in log
    assert "this job is timed-out" in log
    assert "resuming: " in log
    go(tmp_path / "calm", *SMALL[:2], "limit=80")
    assert content(folder(tmp_path, *SMALL[:2])) == content(folder(tmp_path / "calm", *SMALL[:2]))


@pytest.mark.parametrize("what", ["hydra.launcher.gpus_per_node=9", "hydra.launcher.partition=gone", "hydra.launcher.mem_gb=90000"])
def test_what_the_cluster_has_not_is_one_message(cluster: dict[str, str], tmp_path: Path, what: str) -> None:
    job = started(cluster, tmp_path, "limit=1", "seed=0,1", what)
    said = ended(cluster, job)
    assert job.returncode == 1
    assert "avpbench: the scheduler refused the jobs: sbatch: error: " in said
    assert "hydra.launcher.KEY=VALUE" in said
    assert "Traceback" not in said


def test_a_key_that_the_launcher_has_not_is_one_message(cluster: dict[str, str], tmp_path: Path) -> None:
    job = started(cluster, tmp_path, "limit=1", "seed=0,1", "+hydra.launcher.gpu=1")
    said = ended(cluster, job)
    assert job.returncode == 1
    assert "avpbench: hydra.launcher: " in said
    assert "Traceback" not in said
