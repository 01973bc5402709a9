"""A run as it begins: on which machine, with which libraries, models and data."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from avpbench import digest
from avpbench.cell import Cell
from avpbench.config import Identity
from avpbench.engine.engine import Engine
from avpbench.engine.work import work_of
from avpbench.meta import Meta, here, version
from avpbench.meter import measured_rates

_PACKAGE = Path(__file__).parent
_TELLING = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_", "THP_", "PYTORCH_", "OMP_", "KMP_", "GOMP_")  # allocators and threads
_VERSIONS = ("torch", "transformers", "tokenizers", "hydra-core", "omegaconf", "datasets", "wandb", "safetensors", "numpy", "pyzmq")


def describe(identity: Identity, cell: Cell, config: dict[str, Any], words: Sequence[str]) -> Meta:
    """The run of these words as it begins, on this machine, at this time, before its gates."""
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
            **here(),
        },
        models=[asdict(engine.spec) | {"commit": engine.commit} for engine in engines],
        notes=list(dict.fromkeys(note for engine in engines for note in engine.notes)),
        context_tokens=cell.context_tokens,
        seed=cell.settings.seed,
        gates=[],
        git=_git(),
        versions={name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        cuda=torch.version.cuda,
        driver=_driver(),
        threads=torch.get_num_threads(),
        host=platform.node(),
        command=["avpbench", *words],
        began=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        config=config,
        roofline=_roofline(cell.agents[-1].engine, config["latency"]["enabled"]),
        resumed_anyway=[],
        spent={},
        num_samples=cell.num_samples,
        earlier=[],
        processor=_processor(),
        environment=_environment(),
    )


def _roofline(engine: Engine, timed: bool) -> dict[str, Any]:
    rates = asdict(measured_rates(engine.device, engine.model.dtype, torch.get_num_threads())) if timed else {}
    return asdict(work_of(engine)) | rates


def device_name(device: torch.device) -> str:
    """The device's own name, e.g. of the GPU; for a CPU its architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu-{platform.machine()}"


def _processor() -> str | None:
    """The CPU's name, family and model, since a virtual machine's name may be that of several; None where the system does not say."""
    told: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            told.setdefault(key.strip(), value.strip())
    make = ", ".join(f"{key.removeprefix('cpu ')} {told[key]}" for key in ("cpu family", "model") if key in told)
    name = told.get("model name") or platform.processor()
    return f"{name} ({make})" if name and make else name or None


def _driver() -> str | None:
    """The NVIDIA driver's version; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _environment() -> dict[str, str]:
    """The variables that change how long things take; of libraries their names, not where this machine keeps them."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_TELLING)}
    if "LD_PRELOAD" in found:
        found["LD_PRELOAD"] = " ".join(Path(path).name for path in found["LD_PRELOAD"].replace(":", " ").split())
    return found


def _git() -> dict[str, str | None]:
    """The commit, and a hash of what differs from it; None without git or outside a checkout of this package."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(_PACKAGE), *words], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", "describe.py") is None:  # e.g. installed inside somebody else's repository
        return {"commit": None, "dirty": None}
    diff = ask("diff", "HEAD")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": digest.of_text(diff) if diff else None}
