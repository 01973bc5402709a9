"""Keys for which the chosen configs have no place, told before Hydra is asked, which advises to append them. Light to import."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avpbench.config import compose, composing
from avpbench.errors import ConfigError


def check(words: Sequence[str], groups: Mapping[str, Sequence[str]], always: Sequence[str]) -> None:
    """Raises ConfigError for a key under a group whose choice has no such key. What Hydra cannot compose is left to it.

    Args:
        words: KEY=VALUE of one cell, with or without a +.
        groups: the choices of every group.
        always: words that every config begins with (a search path).
    """
    told = [(*_place(word), word) for word in words]
    if not any(len(path) > 1 for path, _, _ in told):
        return
    chosen = list(always)
    with composing(), suppress(HydraException, OmegaConfBaseException):
        config = _composed(chosen)
        for path, key, word in sorted(told, key=lambda one: (len(one[0]), one[1] not in groups)):  # a choice before what is in it
            if len(path) > 1 and path[0] in groups:
                _require(path, config, groups[path[0]], always)
            if key in groups:
                chosen.append(word)
                config = _composed(chosen)


def _place(word: str) -> tuple[list[str], str]:
    """Where a word's value lands, and its key; a group may be placed elsewhere: strategy/controller@strategy.controller.of=NAME."""
    key, _, package = word.partition("=")[0].lstrip("+").partition("@")
    return re.split(r"[./]", package or key), key


def _composed(words: Sequence[str]) -> dict[str, Any]:
    cfg = compose(words, with_hydra=True)
    found = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _require(path: Sequence[str], config: Mapping[str, Any], names: Sequence[str], always: Sequence[str]) -> None:
    depth = _depth(path, config)
    if depth == len(path):
        return
    owner: Any = config
    for key in path[:depth]:
        owner = owner[key]
    keys = [str(key) for key in owner if key != "_target_"] if isinstance(owner, dict) else []
    missing, where = ".".join(path[depth:]), ".".join(path[:depth])
    if depth == 1:
        where = f"{path[0]}={config['hydra']['runtime']['choices'][path[0]]}"
    others = [name for name in names if _depth(path, _composed([*always, f"{path[0]}={name}"])) == len(path)] if depth == 1 else []
    raise ConfigError(
        f"{where} has no {missing}; it has {', '.join(keys) or 'no keys'}" + (f"; {missing} is of {', '.join(others)}" if others else "")
    )


def _depth(path: Sequence[str], config: Mapping[str, Any]) -> int:
    """How far a path leads into a config."""
    inner: Any = config
    for depth, key in enumerate(path):
        if not isinstance(inner, dict) or key not in inner:
            return depth
        inner = inner[key]
    return len(path)
