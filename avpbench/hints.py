"""Did-you-mean for keys and choices, before Hydra is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from avpbench.checks import near
from avpbench.config import CONF, groups
from avpbench.errors import ConfigError


def is_sweep(words: Sequence[str]) -> bool:
    """Whether Hydra is asked for a multirun."""
    return any(word in ("-m", "--multirun") for word in words)


def check(words: Sequence[str], commands: Sequence[str] = ()) -> None:
    """Raises ConfigError for a key or a choice that no config has, naming the nearest ones, and for a grid without -m.

    Flags and hydra's own pass.
    """
    choices = groups()
    keys = set(_all_keys(CONF))
    for word in words:
        if word.startswith(("-", "hydra", "+", "~")):
            continue
        key, separator, value = word.partition("=")
        key = key.partition("@")[0]  # a group placed elsewhere: strategy/controller@strategy.controller.of=NAME
        if not separator:
            hint = near(key, [*commands, *choices, *keys])
            raise ConfigError(f"{word!r} is not KEY=VALUE{hint}; python -m avpbench --help lists the keys")
        if key in choices:
            _check_choices(key, value, choices[key])
        elif key == "receiver" or key.startswith("roles."):
            _check_choices(key, value, choices["model"])
        elif key == "latency.against":
            _check_choices(key, value.strip("[]"), choices["strategy"])
        elif key not in keys:
            raise ConfigError(f"unknown key {key!r}{near(key, [*choices, *keys])}; python -m avpbench --help lists the keys")
        if "," in value and value[0] not in "[{('\"" and not is_sweep(words):
            raise ConfigError(f"{word} names several values; a grid of cells wants -m: python -m avpbench -m {' '.join(words)}")


def _check_choices(group: str, value: str, known: Sequence[str]) -> None:
    for choice in value.split(","):
        name = choice.strip("'\" ")
        if name not in known and name != "null" and re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(f"unknown {group}={name}{near(name, known)}; there are {', '.join(known)}")


def _all_keys(conf: Path) -> Iterator[str]:
    """Every key that some YAML defines, dotted, with its group's package in front."""
    for path in conf.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        is_global = path.parent == conf or text.startswith("# @package _global_")
        package = "" if is_global else ".".join(path.parent.relative_to(conf).parts) + "."
        yield from _dotted(yaml.safe_load(text) or {}, package)


def _dotted(value: Any, prefix: str) -> Iterator[str]:
    for key, inner in value.items():
        if key in ("defaults", "hydra"):
            continue
        yield f"{prefix}{key}"
        if isinstance(inner, dict):
            yield from _dotted(inner, f"{prefix}{key}.")
