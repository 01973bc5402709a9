"""From a grid's overrides to the cells that will run: parts that a strategy does not have left out, equals once, the impossible named."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from avpbench import legal
from avpbench.composer import Choice, Composer
from avpbench.config import Identifier, Identity
from avpbench.errors import AvpBenchError, cause

_APART = ("limit", "results", "study", "resume", "gates", "tracker")  # two jobs that differ here only are two jobs of one cell
_PHASES = ("quality", "latency", "fidelity")
_SCALARS = (str, int, float, bool, type(None))
_REFUSALS = (HydraException, OmegaConfBaseException, AvpBenchError)
Cell = tuple[Choice, ...]


@final
@dataclass(frozen=True, slots=True)
class Planned:
    """A cell of a grid. `given` are the swept overrides that apply to it, `words` all of them, as the launcher gets them."""

    given: str
    words: tuple[str, ...]
    values: dict[str, Any]
    identity: Identity

    @property
    def folder(self) -> Path:
        """Where its records go."""
        return self.identity.within(self.values["results"])


@final
@dataclass(frozen=True, slots=True)
class Impossible:
    """A combination that cannot run, and why."""

    given: str
    words: tuple[str, ...]
    why: str


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """`cells` in the order in which they should run. `left_out`: keys of parts that some strategy does not have."""

    cells: tuple[Planned, ...]
    impossible: tuple[Impossible, ...]
    num_combinations: int
    left_out: tuple[str, ...]

    @property
    def num_equal(self) -> int:
        """Combinations that are another's cell."""
        return self.num_combinations - len(self.cells) - len(self.impossible)


def grid(overrides: Sequence[Override], composer: Composer) -> Grid:
    """The cells of a grid. Raises HydraException for a sweep that cannot be counted off."""
    swept, axes = _axes(overrides, composer.groups)
    judge, fits = _Judge(composer, swept), _Fits(composer, axes)
    for combination in itertools.product(*axes):
        judge(fits(combination))
    count = math.prod(len(axis) for axis in axes)
    return Grid(_by_engine(judge.cells.values()), tuple(judge.impossible.values()), count, tuple(fits.left_out))


@final
class _Judge:
    """Sorts combinations into cells, each once, and what cannot run."""

    def __init__(self, composer: Composer, swept: set[tuple[str, ...]]) -> None:
        self._composer, self._swept, self._identify = composer, swept, Identifier()
        self.cells: dict[Any, Planned] = {}
        self.impossible: dict[tuple[str, ...], Impossible] = {}
        self._seen: set[tuple[str, ...]] = set()

    def __call__(self, kept: Cell) -> None:
        words = tuple(c.word for c in kept)
        if words in self._seen:
            return
        self._seen.add(words)
        given = " ".join(c.word for c in kept if c.path in self._swept)
        try:
            values = self._composer.values(kept)
            legal.check(values, self._composer.model)
            identity = self._identify(values)
        except _REFUSALS as error:
            self.impossible[words] = Impossible(given, words, _reason(error))
        else:
            self.cells.setdefault(_sameness(values, identity), Planned(given, words, values, identity))


def _axes(overrides: Sequence[Override], known: Container[str]) -> tuple[set[tuple[str, ...]], list[list[Choice]]]:
    """The paths that take several values, and every override's choices; a key that is given twice counts once, the later."""
    axes: dict[str, list[Choice]] = {}
    for override in overrides:
        key = override.get_key_element()
        make = partial(_choice, override, key, known)
        if not override.is_sweep_override():
            axes[key] = [replace(make(override._value), word=override.input_line)]
        elif override.is_discrete_sweep():
            axes[key] = [make(element) for element in override.sweep_iterator()]
        else:
            raise HydraException(f"{override.input_line}: an interval cannot be counted off; write its values, e.g. {key}=1,2,3")
    return {choice.path for axis in axes.values() if len(axis) > 1 for choice in axis}, list(axes.values())


def _choice(override: Override, key: str, known: Container[str], element: Any) -> Choice:
    value = Override._convert_value(element)
    change = override.type == OverrideType.CHANGE
    is_group = override.key_or_group in known
    written = element if isinstance(element, str) and "${" in element else Override._get_value_element_as_str(element)
    word = f"{key}={written}"  # Hydra would escape an interpolation
    path = tuple(re.split(r"[./]", override.package if is_group and override.package else override.key_or_group))
    simple = isinstance(value, _SCALARS) or (isinstance(value, list) and all(isinstance(one, _SCALARS) for one in value))
    settable = change and not is_group and simple and "${" not in word and re.fullmatch(r"[\w.-]+", key) is not None
    alone = is_group and change and override.package is None
    return Choice(word, path, value, override.key_or_group if alone else None, settable, change)


@final
class _Fits:
    """Leaves out of a combination the parts that its strategy does not have: `strategy.budget_bits` where it is raw."""

    def __init__(self, composer: Composer, axes: Sequence[Sequence[Choice]]) -> None:
        self._composer = composer
        self._deciding = [k for k, axis in enumerate(axes) if any(_is_part(c) or not c.plain for c in axis)]
        self._known: dict[tuple[str, ...], frozenset[str]] = {}
        self.left_out: dict[str, None] = {}  # the keys, in the order in which they were

    def __call__(self, combination: Cell) -> Cell:
        key = tuple([combination[k].word for k in self._deciding])
        missing = self._known.get(key)
        if missing is None:
            missing = self._known[key] = self._missing(combination)
            self.left_out.update({".".join(c.path): None for c in combination if c.word in missing})
        return tuple([c for c in combination if c.word not in missing]) if missing else combination

    def _missing(self, combination: Cell) -> frozenset[str]:
        """The words of parts that have no place; none where the rest cannot be composed: that is its own refusal."""
        parts = [c for c in combination if _is_part(c)]
        kept, missing = [c for c in combination if c not in parts and not c.plain], []
        for part in sorted(parts, key=lambda c: len(c.path)):
            try:
                has = self._composer.has(kept, part.path)
            except _REFUSALS:
                return frozenset()
            if has:
                kept.append(part)
            else:
                missing.append(part.word)
        return frozenset(missing)


def _is_part(choice: Choice) -> bool:
    return choice.of_strategy and len(choice.path) > 1 and choice.change


def _sameness(values: dict[str, Any], identity: Identity) -> tuple[Any, ...]:
    """Equal for two jobs that would do the same work in the same folder."""
    switches = [values[phase]["enabled"] for phase in _PHASES]
    paths = [values[group].get("path") for group in ("model", "task")]  # not hashed, and not the same work
    return (identity.folder, repr([values[key] for key in _APART]), *paths, *switches, values["latency"].get("repeats"))


def _by_engine(cells: Iterable[Planned]) -> tuple[Planned, ...]:
    """Cells of the same models one after another, so that each model is loaded once; else as they were given."""
    ranks: dict[str, int] = {}
    keyed = []
    for cell in cells:
        loads = repr([cell.values[key] for key in ("model", "receiver", "roles", "device", "dtype")])
        keyed.append((ranks.setdefault(loads, len(ranks)), cell))
    return tuple(cell for _, cell in sorted(keyed, key=lambda pair: pair[0]))


def _reason(error: Exception) -> str:
    """An error in one line."""
    return str(error).replace("\n", " ") if isinstance(error, AvpBenchError) else cause(error)
