"""Checks of values that a user gave: each names the key, what was given and what was wanted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from avpbench.errors import ConfigError

_MOST = 2**53  # exact as a float too


def whole(key: str, value: object, least: int, null: str | None = None, also: str = "") -> None:
    """Raises ConfigError unless the value is a whole number from `least` to 2**53, or null where `null` says what that means.

    `also` names what else the caller would have taken.
    """
    if value is None and null is not None:
        return
    if type(value) is int and value > _MOST:
        raise ConfigError(f"{key} must be at most {_MOST}, got {value!r}")
    if type(value) is not int or value < least:
        also += f" or null ({null})" if null else ""
        raise ConfigError(f"{key} must be a whole number >= {least}{also}, got {value!r}")


def number(key: str, value: object, low: float, high: float, open_low: bool = False) -> None:
    """Raises ConfigError unless the value is a number from `low` to `high`, `low` itself left out where `open_low`."""
    good = type(value) in (int, float) and low <= value <= high and not (open_low and value == low)  # type: ignore[operator]
    if not good:
        bounds = f"above {low:g} and at most {high:g}" if open_low else f"from {low:g} to {high:g}"
        raise ConfigError(f"{key} must be a number {bounds}, got {value!r}")


def flag(key: str, value: object) -> None:
    """Raises ConfigError unless the value is true or false."""
    if type(value) is not bool:
        raise ConfigError(f"{key} must be true or false, got {value!r}")


def one_of(key: str, value: object, wanted: Sequence[str]) -> None:
    """Raises ConfigError unless the value is one of these."""
    if value not in wanted:
        raise ConfigError(f"{key} must be one of {', '.join(wanted)}; got {value!r}{near(value, wanted)}")


def near(word: object, known: Sequence[str]) -> str:
    """A did-you-mean for a word that is not known; empty where nothing is like it."""
    found = difflib.get_close_matches(str(word), list(dict.fromkeys(known)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else ""
