"""A multirun from the command line to its exit status, whatever launches its jobs. Light to import."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig

from avpbench.config import CONF
from avpbench.errors import ConfigError, RecordsError
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


def sweep_folder(words: Sequence[str]) -> Path:
    """Where a multirun keeps its ledger and its jobs' logs: the one given, else a new one under the results."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    wanted = [word for word in words if word.startswith(("hydra.sweep.dir=", "results="))]
    given = {one.key_or_group: str(one.value()) for one in OverridesParser.create().parse_overrides(wanted)}
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
    from avpbench.job import job
    from avpbench.sweep import opened

    folder = sweep_folder(words)
    make_folder(folder)
    if not os.access(folder, os.W_OK):
        raise RecordsError(f"cannot write to {folder}; choose another folder with results=DIR")
    named = any(word.startswith("hydra.sweep.dir=") for word in words)
    try:
        through_hydra(job, [*opened(words), *([] if named else [f"hydra.sweep.dir='{folder}'"])])
    finally:
        failed = _show(Ledger(folder).entries())
    return int(failed)


def _show(entries: Sequence[Entry]) -> bool:
    """Prints how the jobs went; whether any of them did not end well."""
    if not entries:
        return False
    from avpbench.report import show_comparison
    from avpbench.summary import Summary
    from avpbench.sweep import impossible_lines

    named = list(zip(distinct([entry.given for entry in entries]), entries, strict=True))
    lost = [(name, why) for name, entry in named if (why := _why(entry))]
    done = [Summary.from_row(entry.summary) for entry in entries if entry.summary]
    show_comparison(done, lost)
    for line in impossible_lines((name, e.failure.line) for name, e in named if e.state == "impossible" and e.failure):
        print(line)
    return bool(lost) or not done


def _why(entry: Entry) -> str | None:
    """Why the job did not end well; None where it did, or could not."""
    if entry.state == "failed" and entry.failure:
        return entry.failure.line
    return {
        "running": "without a word of its end: it runs on, or was killed; the same command again waits for it or goes on",
        "stopped": "stopped; the same command goes on from there",
        "left_out": "left out after max_failures",
    }.get(entry.state)
