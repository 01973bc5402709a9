"""Configs of thousands of cells: Hydra composes each distinct choice of groups once, plain values are set after it.

Hydra parses and merges every YAML anew for each config. What it gives for a cell is had from few of its configs, exactly:

- a value that no interpolation reads is set in the composed config;
- a choice whose YAML stands alone (no defaults, no `@package`, no interpolation) and whose place holds nothing but the
  choice that Hydra composed there is put in that place;
- the strategy and its parts are composed apart from the rest, where neither touches the other.

Anything else is composed by Hydra as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avpbench.config import CONF, compose, groups, plain
from avpbench.errors import ConfigError

Path_ = tuple[str, ...]
_HEADER = re.compile(r"^#\s*@package", re.M)
_READ = re.compile(r"\$\{([^{}]*)\}")
_NESTED = "strategy"  # the only group with groups in it
_EXPERIMENT = ("experiment",)  # may change anything, and goes with both parts


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """One override of a cell: `word` as Hydra reads it, where it lands, and its value. `group`: it chooses a config."""

    word: str
    path: Path_
    value: Any = field(compare=False)
    group: str | None
    plain: bool  # a value that can be set without Hydra: no `+`, `~`, dictionary or interpolation in it
    change: bool  # neither `+` nor `~`

    @property
    def of_strategy(self) -> bool:
        return self.path[0] == _NESTED


@final
@dataclass(frozen=True, slots=True)
class _Composed:
    """What Hydra composed: plain values, which choice stands in each group, and which path reads which by interpolation."""

    values: dict[str, Any]
    choices: dict[str, str]
    reads: frozenset[tuple[Path_, Path_]]
    odd: bool  # an interpolation that is more than a path: nothing is set behind Hydra's back


@final
class Composer:
    """Plain resolved configs of lists of overrides.

    Args:
        always: words that every one of them begins with (a search path).
        own: folders of the user's own configs on that path.
    """

    def __init__(self, always: Sequence[str] = (), own: Sequence[Path] = ()) -> None:
        self._always = tuple(always)
        self.groups = groups(own)
        self._composed: dict[tuple[str, ...], _Composed | Exception] = {}
        self._grouped: dict[tuple[str, ...], _Composed] = {}
        self._alone: dict[tuple[str, str], dict[str, Any] | None] = {}
        self._read: dict[tuple[Path_, tuple[str, ...]], bool] = {}

    def values(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The config of one cell, as Hydra would compose it. Raises ConfigError, HydraException or OmegaConf's own errors."""
        fixed = tuple([c for c in choices if not c.plain])
        base = self._base(fixed)
        read = [c for c in choices if c.plain and self._is_read(c, fixed, base)]
        if read:
            base = self._base(tuple(c for c in choices if not c.plain or c in read))
        values = base.values
        for choice in choices:
            if not choice.plain or choice in read:
                continue
            place = _at(values, choice.path[:-1])
            if not isinstance(place, dict) or choice.path[-1] not in place:
                raise ConfigError(f"{choice.word}: there is no {'.'.join(choice.path)} here; python -m avpbench --help lists the keys")
            if isinstance(place[choice.path[-1]], dict):
                return self._hydra(choices).values  # a value in place of a dictionary: Hydra says what that means
            values = _put(values, choice.path, choice.value)
        return values

    def _is_read(self, choice: Choice, fixed: tuple[Choice, ...], base: _Composed) -> bool:
        """Whether what stands at a choice's place says more of the config than itself, so that Hydra has to set it."""
        place = (choice.path, tuple([c.word for c in fixed]))
        if place not in self._read:
            touched = [*(path for _, path in base.reads), *(c.path for c in fixed if c.group is None)]
            self._read[place] = base.odd or any(_overlap(choice.path, path) for path in touched)
        return self._read[place]

    def model(self, name: str) -> dict[str, Any]:
        """The model group's config of this name."""
        found = self._hydra((Choice(f"model={name}", ("model",), name, "model", False, True),)).values["model"]
        assert isinstance(found, dict)
        return found

    def has(self, choices: Sequence[Choice], path: Path_) -> bool:
        """Whether the config of these choices has something at this path."""
        place = _at(self.values(choices), path[:-1])
        return isinstance(place, dict) and path[-1] in place

    def _base(self, choices: tuple[Choice, ...]) -> _Composed:
        words = tuple(c.word for c in choices)
        if words not in self._grouped:
            self._grouped[words] = self._apart(choices) or self._filled(choices)
        return self._grouped[words]

    def _apart(self, choices: tuple[Choice, ...]) -> _Composed | None:
        """The strategy's config put into the others', where each left the other's part as it is without both; else None."""
        common = tuple(c for c in choices if c.path == _EXPERIMENT)
        ours, others = tuple(c for c in choices if c.of_strategy), tuple(c for c in choices if not c.of_strategy)
        if not ours or others == common:
            return None
        neither, outer = self._hydra(common), self._base(others)
        if outer.values[_NESTED] != neither.values[_NESTED]:
            return None
        inner = self._base((*common, *ours))
        linked = any(_NESTED in (reader[0], path[0]) for reader, path in inner.reads | outer.reads)
        if linked or inner.odd or outer.odd or any(inner.values[key] != neither.values[key] for key in neither.values if key != _NESTED):
            return None
        chosen = outer.choices | {group: name for group, name in inner.choices.items() if group.split("/")[0] == _NESTED}
        return _Composed(outer.values | {_NESTED: inner.values[_NESTED]}, chosen, outer.reads, False)

    def _filled(self, choices: tuple[Choice, ...]) -> _Composed:
        """What Hydra composes without the choices that stand alone, and these put in their places."""
        alone = [c for c in choices if c.group is not None and self._own(c.group, c.value) is not None]
        base = self._hydra([c for c in choices if c not in alone])
        values, chosen = base.values, dict(base.choices)
        for choice in alone:
            assert choice.group is not None
            own, before = self._own(choice.group, choice.value), self._own(choice.group, chosen.get(choice.group))
            read = base.odd or any(_overlap(choice.path, path) for _, path in base.reads)
            if own is None or before is None or _at(values, choice.path) != before or read:
                return self._hydra(choices)
            values = _put(values, choice.path, own)
            chosen[choice.group] = str(choice.value)
        return _Composed(values, chosen, base.reads, base.odd)

    def _own(self, group: str, name: object) -> dict[str, Any] | None:
        """All that a choice's YAML brings, where it stands alone; else None."""
        key = (group, str(name))
        if key not in self._alone:
            path = CONF / group / f"{name}.yaml"
            text = path.read_text(encoding="utf-8") if isinstance(name, str) and path.is_file() else "defaults: []"
            body = {} if _HEADER.search(text) or "${" in text else yaml.safe_load(text) or {}
            self._alone[key] = body if body and "defaults" not in body else None
        return self._alone[key]

    def _hydra(self, choices: Sequence[Choice]) -> _Composed:
        words = (*self._always, *(c.word for c in choices))
        if words not in self._composed:
            try:
                self._composed[words] = _composed(words)
            except (HydraException, OmegaConfBaseException) as error:
                self._composed[words] = error  # thousands of cells may share one refusal
        found = self._composed[words]
        if isinstance(found, Exception):
            raise found
        return found


def _composed(words: Sequence[str]) -> _Composed:
    cfg = compose(words, with_hydra=True)
    body = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    chosen = {str(group): str(name) for group, name in cfg.hydra.runtime.choices.items()}
    return _Composed(plain(body), chosen, *_interpolations(body))


def _interpolations(cfg: DictConfig) -> tuple[frozenset[tuple[Path_, Path_]], bool]:
    """Which path reads which, and whether some interpolation is not simply a path."""
    found: set[tuple[Path_, Path_]] = set()
    odd = False
    stack: list[tuple[Path_, Any]] = [((), OmegaConf.to_container(cfg, resolve=False))]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(((*path, str(key)), inner) for key, inner in value.items())
        elif isinstance(value, list):
            stack.extend((path, inner) for inner in value)
        elif isinstance(value, str) and "${" in value:
            inside = _READ.findall(value)
            odd = odd or len(inside) != value.count("${") or any(not re.fullmatch(r"\w[\w.]*", one) for one in inside)
            found.update((path, tuple(one.split("."))) for one in inside)
    return frozenset(found), odd


def _overlap(a: Path_, b: Path_) -> bool:
    """Whether one path leads through the other."""
    length = min(len(a), len(b))
    return a[:length] == b[:length]


def _at(values: Any, path: Path_) -> Any:
    for key in path:
        if not isinstance(values, dict):
            return None
        values = values.get(key)
    return values


def _put(values: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """A copy with this value at this path; all else is shared."""
    inner = value if len(path) == 1 else _put(values[path[0]], path[1:], value)
    return values | {path[0]: inner}
