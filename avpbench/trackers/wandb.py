"""Weights & Biases: one run a cell, with a deterministic id; offline without a key."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from avpbench.checks import one_of
from avpbench.errors import cause
from avpbench.meta import Meta
from avpbench.progress import say
from avpbench.records import SampleRecord
from avpbench.summary import Summary
from avpbench.trackers.tracker import Tracker

_COLUMNS = ("sample_id", "gold", "prediction", "correct", "status", "completion")


@final
class Wandb(Tracker):
    """A view of the records in W&B.

    While a run goes on: samples done and accuracy so far. At its end: a history by hop (means over samples), the
    summary, a table of the samples and the record files as an artifact.

    Args:
        project: where the runs go.
        entity: whose project, or None for the default.
        mode: online, offline, or auto: online where there is a key.
    """

    def __init__(self, project: str, entity: str | None, mode: str) -> None:
        one_of("tracker.mode", mode, ("auto", "online", "offline"))
        self._project, self._entity, self._mode = project, entity, mode
        self._run: Any = None
        self._seen = self._right = 0

    def start(self, folder: Path, meta: Meta, done: Sequence[SampleRecord]) -> None:
        self._seen, self._right = len(done), sum(sample.correct for sample in done)
        if importlib.util.find_spec("wandb") is None:
            say("wandb is not installed: the records are kept without it (pip install wandb, or tracker=console)")
            return
        try:
            self._open(folder, meta)
        except Exception as error:  # a view that cannot be opened must not cost the run
            say(f"W&B is left out ({cause(error)}); the records are kept without it")
            self._run = None

    def _open(self, folder: Path, meta: Meta) -> None:
        import wandb

        auto = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        mode: Any = auto if self._mode == "auto" else self._mode
        self._run = wandb.init(
            project=self._project, entity=self._entity, id=f"{meta.study}-{meta.cell}", name=folder.name, group=meta.study,
            job_type=meta.strategy, tags=meta.tags, config=meta.config, dir=str(folder), mode=mode, resume="allow",
            reinit="create_new", settings=wandb.Settings(silent=True, console="off", x_save_requirements=False),  # meta.json has them
        )  # fmt: skip
        self._run.define_metric("hop")
        self._run.define_metric("hop/*", step_metric="hop")
        self._run.define_metric("progress/num_samples")
        self._run.define_metric("progress/*", step_metric="progress/num_samples")
        if mode == "offline":
            say(f"W&B offline (no key); to send it later: wandb sync {self._run.dir.rsplit('/files', 1)[0]}")

    def sample(self, record: SampleRecord) -> None:
        self._seen += 1
        self._right += record.correct
        if self._run is None:
            return
        try:
            self._run.log({"progress/num_samples": self._seen, "progress/accuracy": self._right / self._seen})
        except Exception as error:  # nor may one that breaks meanwhile
            say(f"W&B is left out from here on ({cause(error)}); the records are kept without it")
            self._run = None

    def preempted(self) -> None:
        if self._run is None:
            return
        try:
            self._run.mark_preempting()
        except Exception as error:  # nor one that cannot be told
            say(f"W&B was not told of the preemption ({cause(error)})")

    def finish(self, folder: Path, samples: Sequence[SampleRecord], summary: Summary | None) -> None:
        if self._run is None:
            return
        try:
            if summary is not None:
                self._publish(folder, samples, summary)
            self._run.finish(exit_code=0 if summary is not None else 1)
        except Exception as error:  # nor one that cannot be closed
            say(f"W&B did not take all of this run ({cause(error)}); the records are whole")
        self._run = None

    def _publish(self, folder: Path, samples: Sequence[SampleRecord], summary: Summary) -> None:
        import wandb

        for row in hop_history(samples):
            self._run.log(row)
        rows = [[getattr(s, name) for name in _COLUMNS] for s in samples]
        self._run.log({"samples": wandb.Table(columns=list(_COLUMNS), data=rows)})
        self._run.summary.update({k: v for k, v in summary.row().items() if v is not None})
        artifact = wandb.Artifact(f"records-{self._run.id}", type="records")
        for path in sorted(folder.iterdir()):
            if path.suffix in (".json", ".jsonl", ".yaml"):
                artifact.add_file(str(path))
        self._run.log_artifact(artifact)


def hop_history(samples: Sequence[SampleRecord]) -> list[dict[str, float]]:
    """Means over samples, a row a hop: bytes that crossed and tokens of the turn after it."""
    rows = []
    for hop in range(max((len(s.hops) for s in samples), default=0)):
        ran = [s for s in samples if len(s.hops) > hop]
        row = {f"hop/{k}": 0.0 for k in ("wire_bytes", "cache_bytes", "cached_tokens", "prefilled_tokens", "generated_tokens")}
        for s in ran:
            values = asdict(s.hops[hop]) | asdict(s.turns[hop + 1])
            for key in row:
                row[key] += values[key.removeprefix("hop/")] / len(ran)
        rows.append({"hop": float(hop + 1), **row})
    return rows


def _has_key() -> bool:
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
