"""Did-you-mean for keys and choices, before Hydra is asked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from avpbench.checks import near
from avpbench.config import CONF, groups
from avpbench.errors import ConfigError

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # every YAML is read before anything else happens
_FOLDER = ("--config-dir", "-cd")


def is_sweep(words: Sequence[str]) -> bool:
    """Whether Hydra is asked for a multirun."""
    return any(word in ("-m", "--multirun") for word in words)


def check(words: Sequence[str], commands: Sequence[str] = ()) -> None:
    """Raises ConfigError for a key or a choice that no config has, naming the nearest ones, and for a grid without -m.

    Flags and hydra's own pass.
    """
    own = own_folders(words)
    choices = groups(own)
    keys = {key for conf in (CONF, *own) for key in _all_keys(conf)}
    for word in without_folders(words):
        key, separator, value = word.partition("=")
        if key == "hydra/launcher":
            _check_choices(key, value, ["basic", *choices[key]])
        if key.startswith("hydra.launcher."):
            _check_launcher_key(key, words)
        if word.startswith(("-", "hydra", "+", "~")):
            continue
        key = key.partition("@")[0]  # a group placed elsewhere: strategy/controller@strategy.controller.of=NAME
        if not separator:
            hint = near(key, [*commands, *choices, *keys])
            raise ConfigError(f"{word!r} is not KEY=VALUE{hint}; python -m avpbench --help lists the keys")
        if key == "experiment" and ("," in value or not is_sweep(words)):
            wanted = "one study at a time" if is_sweep(words) else f"a study is a grid: python -m avpbench -m {word}"
            raise ConfigError(f"{word}: {wanted}")
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


def own_folders(words: Sequence[str]) -> list[Path]:
    """The folders of `--config-dir`: the user's own configs, studies above all. Raises ConfigError where one is not there."""
    found = [Path(word.partition("=")[2]) for word in words if word.startswith("--config-dir=")]
    found += [Path(after) for word, after in itertools.pairwise(words) if word in _FOLDER]
    for folder in found:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: there is no such folder; name one with experiment/NAME.yaml or other groups in it")
    return [folder.resolve() for folder in found]


def without_folders(words: Sequence[str]) -> list[str]:
    """The words but for `--config-dir DIR`."""
    after = {place + 1 for place, word in enumerate(words) if word in _FOLDER}
    return [w for place, w in enumerate(words) if place not in after and w not in _FOLDER and not w.startswith("--config-dir=")]


def _check_launcher_key(key: str, words: Sequence[str]) -> None:
    """A key of the launcher that is asked for; those of launchers that are not ours pass."""
    for name in (word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")):
        path = CONF / "hydra" / "launcher" / f"{name}.yaml"
        known = list(_dotted(yaml.load(path.read_text(encoding="utf-8"), _LOADER), "hydra.launcher.")) if path.is_file() else []
        if known and not any(key == one or key.startswith(f"{one}.") for one in known):
            raise ConfigError(f"hydra/launcher={name} has no key {key}{near(key, known)}; there are {', '.join(known)}")


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
        body = yaml.load(text, _LOADER) or {}
        yield from _dotted(body, package)
        for entry in body.get("defaults", ()):  # another group's choice as a part: /strategy@projected: projected
            place = next(iter(entry)) if isinstance(entry, dict) else ""
            if place.startswith("/") and "@" in place:
                group, _, name = place[1:].partition("@")
                yield from (f"{package}{name}.{key}" for key in _group_keys(conf / group))


def _group_keys(folder: Path) -> Iterator[str]:
    """Every key that some choice of this group defines, seen from within the group."""
    for path in folder.rglob("*.yaml"):
        inner = "".join(f"{part}." for part in path.parent.relative_to(folder).parts)
        yield from _dotted(yaml.load(path.read_text(encoding="utf-8"), _LOADER) or {}, inner)


def _dotted(value: Any, prefix: str) -> Iterator[str]:
    for key, inner in value.items():
        if key in ("defaults", "hydra"):
            continue
        yield f"{prefix}{key}"
        if isinstance(inner, dict):
            yield from _dotted(inner, f"{prefix}{key}.")
