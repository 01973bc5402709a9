"""Did-you-mean for keys and choices, before Hydra is asked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from avpbench import parts
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

    A + before a key makes none that is read. Flags and hydra's own pass, and keys of a part whose class is the user's own.
    """
    own = own_folders(words)
    choices = groups(own)
    keys = {key for conf in (CONF, *own) for key in _all_keys(conf)}
    given, ours = without_folders(words), []
    strange = tuple(word.partition("_target_=")[0] for word in given if "._target_=" in word)
    for place, word in enumerate(given):
        key, separator, value = word.partition("=")
        if key == "hydra/launcher":
            _check_choices(key, value, ["basic", *choices[key]])
        if key.startswith("hydra.launcher."):
            _check_launcher_key(key, words)
        key = key.lstrip("+").partition("@")[0]  # a group placed elsewhere: strategy/controller@strategy.controller.of=NAME
        if key.startswith(("-", "hydra", "~")):
            continue
        if not separator:
            _refuse_blanks(given, place)
            hint = near(key, [*commands, *choices, *keys])
            raise ConfigError(f"{word!r} is not KEY=VALUE{hint}; python -m avpbench --help lists the keys")
        if word.startswith("+") and key.startswith(("model.shape.", *strange)):
            continue
        if key == "experiment" and ("," in value or not is_sweep(words)):
            wanted = "one study at a time" if is_sweep(words) else f"a study is a grid: python -m avpbench -m {word.lstrip('+')}"
            raise ConfigError(f"{word}: {wanted}")
        if key in choices:
            _check_choices(key, value, choices[key])
        elif key not in keys:
            raise ConfigError(f"unknown key {key!r}{near(key, [*choices, *keys])}; python -m avpbench --help lists the keys")
        elif key == "receiver" or key.startswith("roles."):
            _check_choices(key, value, choices["model"])
        elif key == "latency.against":
            _check_choices(key, value.strip("[]"), choices["strategy"])
        if "," in value and value[0] not in "[{('\"" and not is_sweep(words):
            raise ConfigError(f"{word} names several values; a grid of cells wants -m: python -m avpbench -m {' '.join(words)}")
        if word.startswith("+") and "." in key and is_sweep(words):
            raise ConfigError(f"{word}: write {word.lstrip('+')}; a grid leaves out what a strategy has no place for")
        if not key.startswith(strange):
            ours.append(word)
    if not is_sweep(words):
        parts.check(ours, choices, search_path(own))


def _refuse_blanks(words: Sequence[str], place: int) -> None:
    """Raises ConfigError where the shell made words of KEY = VALUE."""
    after, before = words[place + 1 : place + 2], words[max(0, place - 1) : place]
    if after and after[0].startswith("="):
        value = after[0].removeprefix("=") or " ".join(words[place + 2 : place + 3]) or "VALUE"
        raise ConfigError(f"no blanks around =, write {words[place]}={value}")
    if before and before[0].endswith("="):
        raise ConfigError(f"no blanks around =, write {before[0]}{words[place]}")


def search_path(own: Sequence[Path]) -> list[str]:
    """The word that has Hydra look in these folders too; none where there are none."""
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in own)}]"] if own else []


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
