"""How far a training is, on the disk: written whole or not at all, and read only by the training that wrote it."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, final

import torch
from omegaconf import DictConfig, OmegaConf

from avpbench.errors import ConfigError, cause


@final
@dataclass(slots=True)
class State:
    """`feeds`: each process's (pool, place)."""

    cycle: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    feeds: list[tuple[int, int]] = field(default_factory=list)
    log: list[dict[str, float]] = field(default_factory=list)
    model: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


def about(recipe: DictConfig, seed: int) -> dict[str, Any]:
    """What makes a training this one."""
    return {"recipe": OmegaConf.to_container(recipe), "seed": seed}


def write(path: Path, state: State, whose: dict[str, Any]) -> None:
    """Writes the state of the training that `whose` says."""
    fresh = path.with_name(f"{path.name}.new")
    torch.save({"about": whose, **{f.name: getattr(state, f.name) for f in fields(State)}}, fresh)
    os.replace(fresh, path)


def read(path: Path, whose: dict[str, Any]) -> State | None:
    """The state last written there, on the CPU; None where there is none.

    Raises ConfigError where it is unreadable or another training's.
    """
    if not path.exists():
        return None
    try:
        held = torch.load(path, map_location="cpu")
        same, state = held.pop("about", None) == whose, State(**held)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({cause(error)}); remove it to begin this training anew") from error
    if not same:
        raise ConfigError(f"{path} is of another recipe or seed; choose another out=DIR, or remove the folder to begin anew")
    return state
