"""Hydra's submitit launchers, patient: one job that dies does not end the wait for the others, and each says where its log is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from avpbench.errors import ConfigError, LaunchFailed, cause
from avpbench.failures import Failure, scheduler_job, write
from avpbench.ledger import Entry, Ledger, distinct
from avpbench.meter import now_s

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ImportError:  # avpbench.launch says so before Hydra looks for these launchers
    BaseSubmititLauncher = object

_LOOK_S = 5.0  # between two looks at the queue
_TELL_S = 60.0


class _Jobs(BaseSubmititLauncher):
    """Submits a job a cell and waits for all of them; a job that ends without an answer becomes a failed cell."""

    def __init__(self, array_parallelism: int, **params: Any) -> None:
        super().__init__(**params)
        self._parallel = array_parallelism
        self._names: dict[int, str] = {}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Raises ConfigError where there is no such scheduler, LaunchFailed where it refuses."""
        ledger = Ledger(Path(self.config.hydra.sweep.dir))
        self._names = dict(enumerate(distinct([" ".join(filter_overrides(words)) for words in job_overrides]), initial_job_idx))
        waiting = dict(enumerate(job_overrides, initial_job_idx))
        executor = self._executor()
        alive: dict[int, Any] = {}
        told: set[int] = set()
        try:
            while waiting or alive:
                now = dict(list(waiting.items())[: self._room(len(alive))])
                if now:
                    alive |= self._submit(executor, now)
                    waiting = {number: words for number, words in waiting.items() if number not in now}
                time.sleep(1)
                for number in self._ended(alive):
                    _settle(ledger, number, job_overrides[number - initial_job_idx], alive.pop(number), self._fate)
                self._tell(ledger, told)
        except KeyboardInterrupt:
            print(f"\navpbench: {len(alive)} jobs run on or wait in the queue; {self._how_to_end(alive)}", flush=True)
            raise
        return [JobReturn(overrides=list(words), status=JobStatus.COMPLETED) for words in job_overrides]

    def _executor(self) -> Any:
        import submitit

        try:
            mine = {"max_num_timeout": f"{self._EXECUTOR}_max_num_timeout", "submitit_folder": "folder"}
            first = {mine[key]: value for key, value in self.params.items() if key in mine}
            executor = submitit.AutoExecutor(cluster=self._EXECUTOR, **first)
            shared = set(submitit.AutoExecutor._typed_parameters()) | {"name", "stderr_to_stdout"}
            rest = {k if k in shared else f"{self._EXECUTOR}_{k}": v for k, v in self._requests().items() if k not in mine}
            executor.update_parameters(**rest)
        except RuntimeError as error:
            raise ConfigError(
                f"hydra/launcher={self._EXECUTOR}: {error}; start it on a login node, or choose hydra/launcher=slurm_local or joblib"
                " for this machine"
            ) from error
        except (NameError, ValueError, AssertionError) as error:
            raise ConfigError(f"hydra.launcher: {error}") from error
        return executor

    def _submit(self, executor: Any, jobs: dict[int, Sequence[str]]) -> dict[int, Any]:
        state = Singleton.get_state()
        calls = [(list(words), "hydra.sweep.dir", number, f"job_id_for_{number}", state) for number, words in jobs.items()]
        try:
            submitted = executor.map_array(self, *zip(*calls, strict=True))
        except (RuntimeError, subprocess.SubprocessError, OSError) as error:
            if "contact slurm controller" in str(error):
                raise LaunchFailed(
                    f"no SLURM controller answers ({str(error).strip().splitlines()[-1]}); is this a login node, and is SLURM_CONF set"
                    " where the cluster wants it?"
                ) from error
            raise LaunchFailed(
                f"the scheduler refused the jobs: {str(error).strip()}; ask for what the cluster has with hydra.launcher.KEY=VALUE"
                " (partition, account, gpus_per_node, mem_gb, timeout_min, ...)"
            ) from error
        for number, job in zip(jobs, submitted, strict=True):
            print(f"avpbench: job {job.job_id}: {self._names[number]}; log: {job.paths.stdout}", flush=True)
        return dict(zip(jobs, submitted, strict=True))

    def _tell(self, ledger: Ledger, told: set[int]) -> None:
        """Prints the failures, and the cells that others hold, that were not told yet, while the rest go on."""
        for entry in ledger.entries():
            if entry.state in ("failed", "held") and entry.failure and entry.number not in told:
                told.add(entry.number)
                print(f"avpbench: {entry.state}: {self._names[entry.number]}: {entry.failure.line}", flush=True)

    @abstractmethod
    def _requests(self) -> dict[str, Any]:
        """What is asked of the executor."""

    @abstractmethod
    def _room(self, num_alive: int) -> int:
        """How many more jobs may be submitted now."""

    @abstractmethod
    def _ended(self, alive: dict[int, Any]) -> list[int]:
        """Which of these jobs have answered, or never will."""

    @abstractmethod
    def _how_to_end(self, alive: dict[int, Any]) -> str:
        """What a person does to end these jobs."""

    @abstractmethod
    def _fate(self, job: Any) -> str:
        """What the scheduler says of a job that ended without an answer."""


@final
class SlurmJobs(_Jobs):
    """One SLURM array. The queue is asked itself, not the accounting, which a cluster may not have."""

    _EXECUTOR = "slurm"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._looked = self._told = 0.0
        self._missed: set[str] = set()
        self._queue: dict[str, str] = {}

    def __call__(self, *args: Any) -> JobReturn:
        """In the job: what sends SIGTERM without a decision of SLURM about the job makes submitit requeue it, as SIGUSR2 does."""
        signal.signal(signal.SIGTERM, _on_terminated(signal.getsignal(signal.SIGUSR2)))
        return super().__call__(*args)

    def _requests(self) -> dict[str, Any]:
        return {**self.params, "array_parallelism": self._parallel}

    def _room(self, num_alive: int) -> int:
        return 10**9  # SLURM keeps to array_parallelism

    def _ended(self, alive: dict[int, Any]) -> list[int]:
        answered = [number for number, job in alive.items() if job.paths.result_pickle.exists()]
        if now_s() - self._looked < _LOOK_S:
            return answered
        self._looked = now_s()
        asked = subprocess.run(
            ["squeue", "-h", "-r", "-o", "%i %T (%r)", "-u", str(os.getuid())], capture_output=True, text=True, check=False
        )
        if asked.returncode:  # a controller that is busy says nothing about the jobs
            self._say([f"squeue fails: {asked.stderr.strip()}"])
            return answered
        self._queue = dict(line.removesuffix(" (None)").split(" ", 1) for line in asked.stdout.splitlines())
        gone = {job.job_id for job in alive.values()} - set(self._queue)
        lost = [number for number, job in alive.items() if job.job_id in gone & self._missed and number not in answered]
        self._missed = gone  # twice, since an answer may reach a shared file system late
        self._say([self._queue.get(job.job_id, "ending") for job in alive.values()])
        return answered + lost

    def _say(self, states: Sequence[str]) -> None:
        """Now and then, what the jobs wait for."""
        if now_s() - self._told < _TELL_S:
            return
        self._told = now_s()
        print("avpbench: " + ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))), flush=True)

    def _fate(self, job: Any) -> str:
        told = _shown(job.job_id)
        code = told.get("ExitCode", "unknown")
        killed = "; it was killed, which happens when memory runs out" if code in ("137:0", "0:9") else ""
        return f"SLURM job {job.job_id} ended {told.get('JobState', 'and is gone')} (exit {code}){killed}"

    def _how_to_end(self, alive: dict[int, Any]) -> str:
        return f"to end them: scancel {' '.join(sorted({job.job_id.split('_')[0] for job in alive.values()}))}"


@final
class LocalJobs(_Jobs):
    """Processes of this machine under submitit, so many at a time."""

    _EXECUTOR = "local"

    def __call__(self, *args: Any) -> JobReturn:
        """In the job: SIGTERM makes submitit start it again, as SIGUSR2 does."""
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGUSR2))
        return super().__call__(*args)

    def _requests(self) -> dict[str, Any]:
        return dict(self.params)

    def _room(self, num_alive: int) -> int:
        return max(0, self._parallel - num_alive)

    def _ended(self, alive: dict[int, Any]) -> list[int]:
        return [number for number, job in alive.items() if job.done()]

    def _fate(self, job: Any) -> str:
        return f"job {job.job_id} ended without an answer"

    def _how_to_end(self, alive: dict[int, Any]) -> str:
        return f"to end them: kill {' '.join(job.job_id for job in alive.values())}"


def _settle(ledger: Ledger, number: int, overrides: Sequence[str], job: Any, fate: Callable[[Any], str]) -> None:
    """Makes a failed cell of a job that died, or whose answer is an error."""
    entry = {e.number: e for e in ledger.entries()}.get(number) or Entry(number, " ".join(filter_overrides(overrides)), "running")
    if entry.state not in ("running", "stopped"):
        return
    said = ""
    if job.paths.result_pickle.exists():
        try:
            came = job.results()[0]
            said = "" if came.status == JobStatus.COMPLETED else f": {cause(came._return_value)}"
        except Exception as error:  # whatever the job was made to raise
            said = f": {cause(error)}"
    kept = "what it had written is kept, and the same command goes on from there"
    failure = Failure.of(LaunchFailed(f"{fate(job)}{said}; {kept}; log: {job.paths.stdout}"))
    if entry.folder:
        write(Path(entry.folder), failure)
    ledger.write(replace(entry, state="failed", failure=failure))


def _shown(job_id: str) -> dict[str, str]:
    """What SLURM says of a job; empty once it has forgotten it."""
    asked = subprocess.run(["scontrol", "-o", "show", "job", job_id], capture_output=True, text=True, check=False)
    return dict(word.split("=", 1) for word in asked.stdout.split() if "=" in word)


def _on_terminated(requeue: Any) -> Callable[[int, Any], None]:
    """A handler that requeues a job which SLURM itself means to go on; one that it cancels or requeues just ends."""

    def handle(number: int, frame: Any) -> None:
        if callable(requeue) and _shown(scheduler_job() or "").get("JobState") == "RUNNING":
            requeue(number, frame)

    return handle
