"""One job of a launcher: a cell, run here or in a process of its own, and what became of it. Light to import.

What the launchers pickle is the name of `job`, so it stands in a module of its own and closes over nothing.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from avpbench.config import identify
from avpbench.errors import AvpBenchError, cause
from avpbench.failures import Failure, scheduler_job
from avpbench.ledger import Entry, Ledger, State

if TYPE_CHECKING:
    from avpbench.summary import Summary

# Ours are named as the issuers' own; a worker of theirs imports this before it reads them.
warnings.filterwarnings("ignore", message=r"(?s).*hydra/launcher/\w+' is validated against ConfigStore schema")


def job(cfg: DictConfig) -> None:
    """One cell of a multirun, as Hydra's launchers run it. How it goes is in the ledger; a failure lets the other cells go on."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    given = " ".join(hydra.overrides.task)
    ledger = Ledger(Path(hydra.sweep.dir))
    entry = Entry(hydra.job.num, given, "running")
    if cfg.max_failures and ledger.num_failed() >= cfg.max_failures:
        ledger.write(replace(entry, state="left_out"))
        print(f"\navpbench: {given} is left out: max_failures={cfg.max_failures} cells have failed", flush=True)
        return
    print(f"\navpbench: {given}\non {place()}", flush=True)  # before torch is imported
    try:
        with suppress(Exception):  # of a config that names no cell; the attempt tells what is wrong with it
            entry = replace(entry, folder=str(identify(cfg).within(cfg.results)))
        ledger.write(entry)
        came = attempt(cfg, hydra.overrides.task, explain=False)
    except BaseException:
        ledger.write(replace(entry, state="stopped"))
        raise
    if isinstance(came, Failure):
        state: State = "impossible" if came.impossible else "held" if came.held else "failed"
        print(f"avpbench: {state}: {given}: {came.line}", flush=True)
        ledger.write(replace(entry, state=state, failure=came))
    else:
        ledger.write(replace(entry, state="done", summary=came.row()))


def place() -> str:
    """Where this process runs: host, number, the scheduler's job and the GPUs that it was given."""
    seen = {"SLURM job": scheduler_job(), "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
    return ", ".join([f"{socket.gethostname()}, process {os.getpid()}", *(f"{key} {value}" for key, value in seen.items() if value)])


def attempt(cfg: DictConfig, words: Sequence[str], explain: bool) -> Summary | Failure:
    """Runs the cell that these words gave, here or (`isolate=process`) in a process of its own. What goes wrong with it is an answer too.

    A traceback is printed for what is not the user's to mend. KeyboardInterrupt and Preempted pass.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        if cfg.isolate == "process":
            from avpbench.child import isolated

            return isolated(cfg, words, explain)
        from avpbench.runner import execute

        return execute(cfg, words, explain)
    except (AvpBenchError, HydraException, OmegaConfBaseException, OSError) as error:
        return Failure.of(error)
    except Exception as error:
        traceback.print_exc()
        print(f"avpbench: this is a defect of avpbench or of what it runs: {cause(error)}", file=sys.stderr)
        return Failure.of(error)
