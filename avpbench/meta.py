"""What a run was made with, and whether another may go on in its folder."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, final

import torch

from avpbench import digest
from avpbench.cell import Cell
from avpbench.config import Identity
from avpbench.engine.engine import Engine
from avpbench.engine.work import work_of
from avpbench.errors import RecordsError, cause
from avpbench.meter import measured_rates
from avpbench.progress import say
from avpbench.prompts import prompt_hash
from avpbench.store import read_json

_SESSION = ("began", "host", "gates", "git", "versions", "cuda", "driver", "threads", "command", "notes", "spent")
_PACKAGE = Path(__file__).parent
_COMPUTING = ("torch", "transformers", "tokenizers")  # another version may compute something else
_VERSIONS = ("torch", "transformers", "tokenizers", "hydra-core", "omegaconf", "datasets", "wandb", "safetensors", "numpy", "pyzmq")


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
    roofline: dict[str, Any] | None  # the device's measured rates and a pass's work; None where nothing is timed
    resumed_anyway: list[dict[str, Any]]  # what differed when somebody went on all the same, ever
    spent: dict[str, dict[str, float]]  # seconds and how many of what, by phase, once the run ends: what plans estimate from
    num_samples: int  # of this run's limit
    earlier: list[dict[str, Any]]  # the sessions that came before in this folder: their own fields of _SESSION


def read(folder: Path) -> Meta:
    """What a run's folder says of it. Raises RecordsError where it says something else."""
    try:
        return Meta(**read_json(folder / "meta.json"))
    except TypeError as error:
        raise RecordsError(f"{folder / 'meta.json'} is not a run's of this version ({cause(error)})") from error


def describe(identity: Identity, cell: Cell, config: dict[str, Any]) -> Meta:
    """The run as it begins, on this machine, at this time, before its gates."""
    engines = list(dict.fromkeys(agent.engine for agent in cell.agents))
    first = engines[0]
    return Meta(
        cell=identity.hash,
        study=identity.study,
        strategy=identity.strategy,
        tags=[cell.task.name, first.spec.name, f"chain{cell.settings.chain}", cell.settings.question],
        identity={
            "weights": [engine.spec.weights_id for engine in engines],
            "tokenizers": [engine.spec.tokenizer_id for engine in engines],
            "data": cell.task.fingerprint,
            "dtype": first.spec.dtype,
            "device": device_name(first.device),
            "libraries": ", ".join(f"{name} {_version(name)}" for name in _COMPUTING),
            "code": digest.of_source(_PACKAGE),
            "prompts": prompt_hash(),
        },
        models=[asdict(engine.spec) | {"commit": engine.commit} for engine in engines],
        notes=list(dict.fromkeys(note for engine in engines for note in engine.notes)),
        context_tokens=cell.context_tokens,
        seed=cell.settings.seed,
        gates=[],
        git=_git(),
        versions={name: _version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        cuda=torch.version.cuda,
        driver=_driver(),
        threads=torch.get_num_threads(),
        host=platform.node(),
        command=_command(),
        began=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        config=config,
        roofline=_roofline(cell.agents[-1].engine) if config["latency"]["enabled"] else None,
        resumed_anyway=[],
        spent={},
        num_samples=cell.num_samples,
        earlier=[],
    )


def _roofline(engine: Engine) -> dict[str, Any]:
    return asdict(measured_rates(engine.device, engine.model.dtype, torch.get_num_threads())) | asdict(work_of(engine))


def admit(folder: Path, about: Meta, resume: str) -> Meta:
    """Lets a run into a folder that may hold records; returns its meta, with what was ever resumed although it differed.

    `auto`: only where weights, data, dtype, device and code are the same, else RecordsError names which differ.
    `anyway`: goes on and says so. `never`: sets the old records aside.
    """
    path = folder / "meta.json"
    if not any(folder.glob("*.jsonl")):
        return about
    if resume == "never":
        _set_aside(folder)
        return about
    try:
        before = json.loads(path.read_text())
        old, was, mixed = before["identity"], before["cell"], before["resumed_anyway"]
        about = replace(about, earlier=[*before["earlier"], {key: before.get(key) for key in _SESSION}])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordsError(
            f"{folder} holds records, and {path.name} beside them is not a run's ({cause(error)}); move the folder away, or"
            " resume=never sets them aside"
        ) from error
    if was != about.cell:
        raise RecordsError(f"{folder} holds cell {was}, this run is {about.cell}; choose another folder with results=DIR")
    changed = [f"{key} ({old.get(key)} then, {value} now)" for key, value in about.identity.items() if old.get(key) != value]
    if not changed:
        return replace(about, resumed_anyway=mixed)
    what = "; ".join(changed)
    if resume != "anyway":
        raise RecordsError(
            f"{folder} holds records of a run that differs in {what}. resume=never sets them aside and starts anew;"
            " resume=anyway goes on and records it; study=NAME or results=DIR keeps both"
        )
    say(f"resuming anyway, although this differs: {what}")
    return replace(about, resumed_anyway=[*mixed, {"at": about.began, "changed": changed}])


def _set_aside(folder: Path) -> None:
    aside = folder / f"before-{time.strftime('%Y%m%d-%H%M%S')}"
    aside.mkdir()
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("lock"):
            path.rename(aside / path.name)
    say(f"earlier records set aside in {aside}")


def device_name(device: torch.device) -> str:
    """The device's own name, e.g. of the GPU; for a CPU its architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu-{platform.machine()}"


def _driver() -> str | None:
    """The NVIDIA driver's version; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _command() -> list[str]:
    """The words that were given, whatever folder the program lies in and the sweep was sent to."""
    program = Path(sys.argv[0])
    words = [word for word in sys.argv[1:] if not word.startswith("hydra.sweep.dir=")]
    return ["/".join(program.parts[-2:]), *words]


def _git() -> dict[str, str | None]:
    """The commit, and a hash of what differs from it; None without git or outside a checkout of this package."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(_PACKAGE), *words], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", "meta.py") is None:  # e.g. installed inside somebody else's repository
        return {"commit": None, "dirty": None}
    diff = ask("diff", "HEAD")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": digest.of_text(diff) if diff else None}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
