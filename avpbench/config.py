"""Configs: where they live, how they are composed, and what makes two of them one cell. Light to import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig, OmegaConf

from avpbench import digest
from avpbench.prompts import roles

_HERE = Path(__file__).resolve().parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
ZOO = _HERE / "zoo"
# What cannot change a result; all else is hashed.
_OUTSIDE = frozenset({"limit", "tracker", "results", "resume", "gates", "study", "isolate", "wait_s", "max_failures", "max_hours"})
_PARTS_OUTSIDE = {  # repeats extend, as limit does; what is at a path is what counts, and meta.json holds its identity
    "quality": ("enabled",), "latency": ("enabled", "repeats"), "fidelity": ("enabled",),
    "link": ("deadline_s", "turn_s", "max_bytes"), "model": ("path",), "task": ("path",),
}  # fmt: skip
LARGEST_BATCH = 256  # where batch_size=auto begins
_HOPS = ("strategy", "link", "latency", "fidelity", "donor", "think_steps", "max_agent_tokens", "receiver", "question")


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """Which cell a config is, and where its records go."""

    study: str
    folder: str
    hash: str
    strategy: str

    def within(self, results: str | Path) -> Path:
        """The folder of the cell's records in a store."""
        return Path(results, self.study, self.folder)


def groups(more: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Every config group and its choices, those in folders of the user's own among them; a nested one is `strategy/codec`."""
    found: dict[str, set[str]] = {"experiment": set()}
    for conf in (CONF, *more):
        for file in conf.rglob("*/*.yaml"):
            found.setdefault(file.parent.relative_to(conf).as_posix(), set()).add(file.stem)
    return {name: sorted(choices) for name, choices in sorted(found.items())}


@contextmanager
def composing() -> Iterator[None]:
    """Where Hydra can compose; within a run it can already."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().is_initialized()
    with nullcontext() if running else initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def compose(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """The config that these overrides give, as on the command line; `with_hydra`: Hydra's own node too."""
    from hydra import compose as hydra_compose

    with composing():
        cfg: DictConfig = hydra_compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
        return cfg


def model_config(name: str, beside: DictConfig | None = None) -> DictConfig:
    """The model group's config of this name; for a second model in one chain, of the variant of the one `beside` it, where it
    was trained in that, too."""
    model: DictConfig = _with(f"model={name}").model
    if beside is not None and "variant" in beside and "variant" in model:
        own, model.variant = model.variant, beside.variant
        if not (ZOO / str(model.zoo)).is_dir():
            model.variant = own
    return model


def model_folder(model: Mapping[str, Any]) -> Path | None:
    """Where a model's files lie; None for the hub's, and for dummy weights, which have none."""
    if model["load"] == "dummy":
        return None
    return Path(model["path"]).expanduser() if model["path"] else ZOO / model["zoo"] if model["zoo"] else None


def strategy_config(name: str, cfg: DictConfig | None = None) -> DictConfig:
    """The strategy group's config of this name; what its YAML takes from the rest comes from `cfg` (None: from the defaults)."""
    whole = _with(f"strategy={name}")
    if cfg is not None:
        written = OmegaConf.to_container(whole.strategy, resolve=False)
        whole = deepcopy(cfg)
        OmegaConf.update(whole, "strategy", written, merge=False, force_add=True)
    strategy: DictConfig = whole.strategy
    return strategy


def _with(choice: str) -> DictConfig:
    """The defaults with this choice, one's own to change. Composed once a search path: Hydra takes longer than all else in a short cell."""
    from hydra.core.global_hydra import GlobalHydra

    hydra = GlobalHydra.instance()
    return deepcopy(_composed(choice, str(hydra.config_loader().get_search_path()) if hydra.is_initialized() else str(CONF)))


@lru_cache(maxsize=64)
def _composed(choice: str, search_path: str) -> DictConfig:
    return compose([choice])


def role_models(values: Mapping[str, Any]) -> list[str | None]:
    """The model of each agent by name, None for the cell's own: the receiver plays every second one, a role's own goes before both."""
    places = enumerate(roles(values["chain"]))
    return [values["roles"][role] or (values["receiver"] if place % 2 else None) for place, role in places]


def largest_batch(values: Mapping[str, Any]) -> int:
    """How many problems the largest batch of a plain config holds."""
    size: int = LARGEST_BATCH if values["batch_size"] == "auto" else values["batch_size"]
    return size if values["limit"] is None else min(size, values["limit"])


def strategy_name(strategy: Mapping[str, Any]) -> str:
    """The module that the config targets: presets of one strategy share it."""
    return str(strategy["_target_"]).split(".")[-2]


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values, resolved."""
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def scientific(values: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in a plain config that can change a result, in a canonical form: a chain of one agent has no hop."""
    single = values["chain"] == 1
    return {key: _part(key, value, single) for key, value in values.items() if key not in _OUTSIDE}


def _part(key: str, value: Any, single: bool) -> Any:
    """What one of the config's keys has of it."""
    if single and key in _HOPS:
        return None
    if single and key == "roles":
        return {"solver": value["solver"]}
    return digest.canonical(
        {name: one for name, one in value.items() if name not in _PARTS_OUTSIDE[key]} if key in _PARTS_OUTSIDE else value
    )


def identify(cfg: DictConfig) -> Identity:
    """The cell of a config."""
    return identify_plain(plain(cfg))


def identify_plain(values: Mapping[str, Any]) -> Identity:
    """The cell of a plain config."""
    return _identity(values, digest.of_json(scientific(values)))


@final
class Identifier:
    """The cells of many plain configs, as `identify_plain` tells them, fast where the configs share dictionaries that nobody changes."""

    def __init__(self) -> None:
        self._members: dict[tuple[Any, ...], tuple[Any, str]] = {}  # with the value, so that no other gets its id

    def __call__(self, values: Mapping[str, Any]) -> Identity:
        single, members, known = values["chain"] == 1, [], self._members
        for key in sorted(values.keys() - _OUTSIDE):
            value = values[key]
            kind = type(value)
            place = (key, single, kind, id(value) if kind in (dict, list) else value)
            if place not in known:
                known[place] = (value, digest.member(key, _part(key, value, single)))
            members.append(known[place][1])
        return _identity(values, digest.of_members(members))


def _identity(values: Mapping[str, Any], hashed: str) -> Identity:
    short = hashed[:10]
    single, model, receiver = values["chain"] == 1, values["model"]["name"], values["receiver"]
    strategy = "single" if single else strategy_name(values["strategy"])
    names = model if not receiver else f"{model}+{receiver}"
    return Identity(str(values["study"]), f"{names}-{strategy}-c{values['chain']}-{short}", short, strategy)
