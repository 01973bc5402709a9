"""A multirun from the command line to its exit status, whatever launches its jobs. Light to import."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from omegaconf import DictConfig

from avpbench.config import CONF
from avpbench.errors import AvpBenchError, ConfigError, LaunchFailed, RecordsError, cause
from avpbench.failures import Failure, write
from avpbench.files import make_folder
from avpbench.ledger import Entry, Ledger, distinct

_NEEDS = {"slurm": ("submitit", "slurm"), "slurm_local": ("submitit", "slurm"), "ray": ("ray", "ray"), "joblib": ("joblib", "joblib")}


def check_launcher(words: Sequence[str]) -> None:
    """Raises ConfigError for a launcher whose library is not installed."""
    for word in words:
        key, _, name = word.partition("=")
        library, extra = _NEEDS.get(name, (None, None))
        if key == "hydra/launcher" and library and importlib.util.find_spec(library) is None:
            raise ConfigError(f"hydra/launcher={name} needs {library}: pip install 'avpbench[{extra}]'")
        if key == "hydra/launcher" and name == "ray":
            _check_ray(words)


def _check_ray(words: Sequence[str]) -> None:
    """Ray waits for ever for what its machine has not."""
    from avpbench.estimate import has_gpu

    elsewhere = any(word.startswith("hydra.launcher.ray.init.address=") for word in words)
    if not elsewhere and not has_gpu() and not any(word.startswith("hydra.launcher.ray.remote.num_gpus=") for word in words):
        raise ConfigError(
            "hydra/launcher=ray asks for one GPU a cell and this machine has none; hydra.launcher.ray.remote.num_gpus=0, or"
            " hydra.launcher.ray.init.address=auto for a cluster that has some"
        )


def sweep_folder(words: Sequence[str]) -> Path:
    """Where a multirun keeps its ledger and its jobs' logs: the one given, else a new one under the results."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    wanted = [word for word in words if word.startswith(("hydra.sweep.dir=", "results="))]
    parsed = OverridesParser.create().parse_overrides(wanted)
    given = {one.key_or_group: str(one.value()) for one in parsed if not one.is_sweep_override()}
    if "hydra.sweep.dir" in given:
        return Path(given["hydra.sweep.dir"])
    results = given.get("results") or yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["results"]
    return Path(results).absolute() / ".multirun" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def through_hydra(task: Callable[[DictConfig], None], words: Sequence[str]) -> None:
    """Gives Hydra the command line; it composes the configs that the task gets."""
    import hydra

    sys.argv = [sys.argv[0], *words]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()


def sweep(words: Sequence[str]) -> int:
    """Runs a grid; prints its comparison, the cells that cannot run and those that failed. Returns 1 where a cell failed or none ran."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from avpbench.job import job
    from avpbench.sweep import opened

    folder = sweep_folder(words)
    make_folder(folder)
    if not os.access(folder, os.W_OK):
        raise RecordsError(f"cannot write to {folder}; choose another folder with results=DIR")
    named = any(word.startswith("hydra.sweep.dir=") for word in words)
    ledger = Ledger(folder)
    try:
        through_hydra(job, [*opened(words), *([] if named else [f"hydra.sweep.dir={_quoted(folder)}"])])
    except (AvpBenchError, HydraException, OmegaConfBaseException, OSError):
        raise
    except Exception as error:
        if not any(word.startswith("hydra/launcher=") for word in words):
            raise  # ours, or Hydra's own
        raise _given_up(ledger, error) from error
    finally:
        ended_well = _show(ledger.entries())
    return int(not ended_well)


def _quoted(folder: Path) -> str:
    """As Hydra reads it."""
    return "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _given_up(ledger: Ledger, error: Exception) -> LaunchFailed:
    """What a launcher raised itself, e.g. because a worker of its was killed: that is what became of the cells that it ran."""
    told = LaunchFailed(
        f"the launcher gave up: {cause(error)}. What was done is kept; the same command goes on from there, and with isolate=process a"
        " cell that is killed (memory?) costs itself alone"
    )
    for entry in ledger.entries():
        if entry.state == "running":
            failure = Failure.of(told)
            if entry.folder:
                write(Path(entry.folder), failure)
            ledger.write(replace(entry, state="failed", failure=failure))
    return told


def _show(entries: Sequence[Entry]) -> bool:
    """Prints how the jobs went; whether some were done and all others could not run."""
    if not entries:
        return False
    from avpbench.report import show_comparison
    from avpbench.summary import Summary
    from avpbench.sweep import impossible_lines

    named = list(zip(distinct([entry.given for entry in entries]), entries, strict=True))
    failed = [(name, e.failure.line) for name, e in named if e.state == "failed" and e.failure]
    open_ = [(name, why) for name, entry in named if (why := _why_open(entry))]
    done = [Summary.from_row(entry.summary) for entry in entries if entry.summary]
    show_comparison(done, failed, open_)
    for line in impossible_lines((name, e.failure.line) for name, e in named if e.state == "impossible" and e.failure):
        print(line)
    return bool(done) and not failed and not open_


def _why_open(entry: Entry) -> str | None:
    """Why nobody knows yet how the cell goes; None where somebody does."""
    if entry.state == "held" and entry.failure:
        return entry.failure.line
    return {
        "running": "it runs on, or was killed without a word: python -m avpbench status tells",
        "stopped": "stopped; the same command goes on from there",
        "left_out": "left out after max_failures",
    }.get(entry.state)
