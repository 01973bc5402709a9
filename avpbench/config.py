"""Configs: where they live, how they are composed, and what makes two of them one cell. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig, OmegaConf

from avpbench import digest

_HERE = Path(__file__).resolve().parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
# What cannot change a result; all else is hashed.
_OUTSIDE = ("limit", "tracker", "results", "resume", "gates", "study")
_PHASES = ("quality", "latency", "fidelity")


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """Which cell a config is, and where its records go."""

    study: str
    folder: str
    hash: str
    strategy: str


def groups() -> dict[str, list[str]]:
    """Every config group and its choices; a group within one is named `strategy/codec`."""
    folders = sorted(p for p in CONF.rglob("*") if p.is_dir())
    return {p.relative_to(CONF).as_posix(): sorted(f.stem for f in p.glob("*.yaml")) for p in folders}


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config that these overrides give, as on the command line."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().is_initialized()
    with nullcontext() if running else initialize_config_dir(str(CONF), version_base="1.3"):
        cfg: DictConfig = hydra_compose("config", overrides=list(overrides))
        return cfg


def model_config(name: str) -> DictConfig:
    """The model group's config of this name; for a second model in one chain."""
    model: DictConfig = compose([f"model={name}"]).model
    return model


def strategy_config(name: str) -> DictConfig:
    """The strategy group's config of this name, as the YAML has it."""
    strategy: DictConfig = compose([f"strategy={name}"]).strategy
    return strategy


def strategy_name(strategy: DictConfig) -> str:
    """The module that the config targets: presets of one strategy share it."""
    return str(strategy._target_).split(".")[-2]


def scientific(cfg: DictConfig) -> dict[str, Any]:
    """Everything in the config that can change a result, in a canonical form: a chain of one agent has no hop."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    kept = {str(key): value for key, value in plain.items() if key not in _OUTSIDE}
    for phase in _PHASES:
        kept[phase].pop("enabled")
    kept["latency"].pop("repeats")  # like limit: more of them extend
    for group in ("model", "task"):
        kept[group].pop("path", None)  # what is there is what counts, and meta.json holds its identity
    if cfg.chain == 1:
        for key in ("strategy", "link", "latency", "fidelity", "donor", "think_steps", "max_agent_tokens", "receiver", "question"):
            kept[key] = None
        kept["roles"] = {"solver": kept["roles"]["solver"]}
    return kept


def identify(cfg: DictConfig) -> Identity:
    """The cell of a config."""
    short = digest.of_json(scientific(cfg))[:10]
    strategy = "single" if cfg.chain == 1 else strategy_name(cfg.strategy)
    names = cfg.model.name if not cfg.receiver else f"{cfg.model.name}+{cfg.receiver}"
    return Identity(str(cfg.study), f"{names}-{strategy}-c{cfg.chain}-{short}", short, strategy)
