"""What a run was made with, and whether another may go on in its folder. Light to import."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, final

from avpbench.errors import RecordsError, cause
from avpbench.files import read_json
from avpbench.progress import say
from avpbench.prompts import prompt_hash
from avpbench.store import Records, Wanted, code_id

_SESSION = (
    "began",
    "host",
    "gates",
    "git",
    "versions",
    "cuda",
    "driver",
    "threads",
    "processor",
    "environment",
    "command",
    "notes",
    "spent",
)
CLOCKWORK = ("processor", "threads", "environment")  # what times depend on and answers do not
WAYS_ON = "resume=never sets them aside and starts anew; resume=anyway goes on and records it; study=NAME or results=DIR keeps both"
_COMPUTING = ("torch", "transformers", "tokenizers")  # another version may compute something else


@final
@dataclass(frozen=True, slots=True)
class Meta:
    """What meta.json holds: all that a reader needs to judge or repeat the run. `identity` must agree for a resume."""

    cell: str
    study: str
    strategy: str
    tags: list[str]
    identity: dict[str, Any]
    models: list[dict[str, Any]]
    notes: list[str]
    context_tokens: int
    seed: int
    gates: list[dict[str, Any]]
    git: dict[str, str | None]
    versions: dict[str, str | None]
    cuda: str | None
    driver: str | None
    threads: int
    host: str
    command: list[str]
    began: str
    config: dict[str, Any]
    roofline: dict[str, Any] | None  # a pass's work, and where passes are timed the device's measured rates; None in older records
    resumed_anyway: list[dict[str, Any]]  # what differed when somebody went on all the same, ever
    spent: dict[str, dict[str, float]]  # seconds and how many of what, by phase, once the run ends: what plans estimate from
    num_samples: int  # of this run's limit
    earlier: list[dict[str, Any]]  # the sessions that came before in this folder: their own fields of _SESSION
    processor: str | None = None  # the CPU's name and make: times of two are not compared; None where unknown, and in older records
    environment: dict[str, str] | None = None  # variables that change how long things take (describe.py); None in older records


def read(folder: Path) -> Meta:
    """What a run's folder says of it. Raises RecordsError where it says something else."""
    try:
        return Meta(**read_json(folder / "meta.json"))
    except TypeError as error:
        raise RecordsError(f"{folder / 'meta.json'} is not a run's of this version ({cause(error)})") from error


@cache
def here() -> dict[str, str]:
    """What of a run's identity is known without its models and data, as it was when this process first asked."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _COMPUTING)
    return {"libraries": libraries, "code": code_id(), "prompts": prompt_hash()}


def version(name: str) -> str | None:
    """Of an installed package; None for one that is not."""
    try:
        return installed(name)
    except PackageNotFoundError:
        return None


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, of what is known now."""
    return [f"{key} ({then.get(key)} then, {value} now)" for key, value in now.items() if then.get(key) != value]


def admit(folder: Path, about: Meta, resume: str) -> Meta:
    """Lets a run into a folder that may hold records; returns its meta, with what was ever resumed although it differed.

    `auto`: only where weights, data, dtype, device and code are the same, and the CLOCKWORK too where more blocks are to be timed, else
    RecordsError names which differ.
    `anyway`: goes on and says so. `never`: sets the old records aside.
    """
    if not any(folder.glob("*.jsonl")):
        return about
    if resume == "never":
        _set_aside(folder)
        return about
    try:
        before = read_json(folder / "meta.json")
        old, was, mixed = before["identity"] | {key: before.get(key) for key in CLOCKWORK}, before["cell"], before["resumed_anyway"]
        about = replace(about, earlier=[*before["earlier"], {key: before.get(key) for key in _SESSION}])
    except (RecordsError, KeyError, TypeError) as error:
        raise RecordsError(
            f"{folder} holds records, and meta.json beside them is not a run's ({cause(error)}); move the folder away, or"
            " resume=never sets them aside"
        ) from error
    if was != about.cell:
        raise RecordsError(f"{folder} holds cell {was}, this run is {about.cell}; choose another folder with results=DIR")
    changed = changes(old, about.identity | (_clockwork(about, old) if _times_more(about, folder) else {}))
    if not changed:
        return replace(about, resumed_anyway=mixed)
    what = "; ".join(changed)
    if resume != "anyway":
        raise RecordsError(f"{folder} holds records of a run that differs in {what}. {WAYS_ON}")
    say(f"resuming anyway, although this differs: {what}")
    return replace(about, resumed_anyway=[*mixed, {"at": about.began, "changed": changed}])


def _clockwork(about: Meta, old: Mapping[str, Any]) -> dict[str, Any]:
    return {key: getattr(about, key) for key in CLOCKWORK if old[key] is not None}  # older records do not say


def _times_more(about: Meta, folder: Path) -> bool:
    """Whether blocks are asked for beside some that are there."""
    have = Records(folder).refresh()
    return bool(have.rows) and Wanted.of(about.config).left(have).blocks > 0


def _set_aside(folder: Path) -> None:
    aside = folder / f"before-{time.strftime('%Y%m%d-%H%M%S')}"
    aside.mkdir()
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("lock"):
            path.rename(aside / path.name)
    say(f"earlier records set aside in {aside}")
