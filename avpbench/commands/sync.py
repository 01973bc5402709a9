"""python -m avpbench sync DIR|STUDY [results=DIR] [tracker.KEY=VALUE]: W&B runs made anew from records whose offline log was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from avpbench.build import build
from avpbench.config import compose
from avpbench.errors import AvpBenchError, ConfigError, RecordsError
from avpbench.files import read_json
from avpbench.hints import check
from avpbench.meta import read
from avpbench.progress import say
from avpbench.records import read_samples
from avpbench.store import run_folders

_LOGS = "wandb/*run-[0-9]*/*.wandb"  # not latest-run, which is one of them again
_TRACKER = "avpbench.trackers.wandb.Wandb"


def main(words: Sequence[str]) -> int:
    """Replays every finished run in a folder that has no whole log of its own. Raises ConfigError and RecordsError."""
    names = [word for word in words if "=" not in word]
    options = [word for word in words if "=" in word]
    if len(names) != 1 or any(not word.startswith(("results=", "tracker.")) for word in options):
        raise ConfigError(f"sync wants one folder or study [results=DIR] [tracker.KEY=VALUE], got {' '.join(words) or 'nothing'}")
    check(["tracker=wandb", *options])
    asked = compose(["tracker=wandb", *options])
    folder = Path(names[0]) if Path(names[0]).is_dir() else Path(str(asked.results)) / names[0]
    folders = list(run_folders(folder))
    if not folders:
        raise RecordsError(f"{folder} holds no run; sync wants a run's folder, a study's, or a study's name")
    failed, kept = 0, []
    for one in folders:
        if not (one / "summary.json").is_file():
            say(f"not finished, left alone: {one}")
        elif logs := [log for log in sorted(one.glob(_LOGS)) if is_whole(log, _num_samples(one))]:
            kept += [log.parent for log in logs[-1:] if not log.with_suffix(".wandb.synced").exists()]
        else:
            failed += not _replayed(one, asked.tracker, any(word.startswith("tracker.") for word in options))
    if kept:
        say(f"{len(kept)} whole offline logs; to send them: wandb sync {' '.join(str(path) for path in kept)}")
    return 1 if failed else 0


def _num_samples(folder: Path) -> int:
    return int(read_json(folder / "summary.json").get("num_samples", 0))


def is_whole(log: Path, num_samples: int) -> bool:
    """Whether an offline log tells of all samples and ends as a finished run's does.

    After SIGKILL it may hold only its header, and a run in several sessions has one of each.
    """
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)], capture_output=True, text=True, check=False
    )
    told, ended = 0, False
    for line in done.stdout.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return False
        told += row.get("type") == "history" and "progress/num_samples" in row["history"]["item"]
        ended = ended or (row.get("type") == "exit" and row["exit"].get("exit_code", 0) == 0)
    return ended and told >= num_samples


def _replayed(folder: Path, asked: DictConfig, chosen: bool) -> bool:
    """Tells a tracker of the run as if it happened now. False where the folder is not a run's or W&B did not take it."""
    from avpbench.summary import Summary
    from avpbench.trackers.wandb import Wandb

    try:
        meta = read(folder)
        own = meta.config["tracker"]
        tracker: Wandb = build(asked if chosen or own["_target_"] != _TRACKER else OmegaConf.create(own))
        summary = Summary.from_row(read_json(folder / "summary.json"))
        samples = read_samples(folder)
    except (AvpBenchError, KeyError, TypeError) as error:
        say(f"left alone, {folder}: {error}; python -m avpbench verify {folder} says more")
        return False
    say(f"replaying {len(samples)} samples of {folder}")
    tracker.start(folder, meta, [])
    for sample in samples:
        tracker.sample(sample)
    tracker.finish(folder, samples, summary)
    return any(is_whole(log, summary.quality.num_samples) for log in folder.glob(_LOGS))
