"""Short names for long things: XXH3 over text and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash


def of_text(text: str) -> str:
    """16 hex digits that depend on every character."""
    return xxhash.xxh3_64_hexdigest(text.encode())


def of_json(value: Any) -> str:
    """The same for plain values, whatever order their keys are in."""
    return of_text(json.dumps(value, sort_keys=True))


def canonical(value: Any) -> Any:
    """4.0 as 4, so that both spellings are one thing."""
    if isinstance(value, dict):
        return {key: canonical(one) for key, one in value.items()}
    if isinstance(value, list):
        return [canonical(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def member(key: str, value: Any) -> str:
    """One key of an object and its value, for `of_members`."""
    return f"{json.dumps(key)}: {json.dumps(value, sort_keys=True)}"


def of_members(members: Iterable[str]) -> str:
    """`of_json` of the object that has these members, given in the order of their keys."""
    return of_text("{" + ", ".join(members) + "}")


def of_source(package: Path) -> str:
    """A hash over a package's source, wherever it is installed."""
    hasher = xxhash.xxh3_64()
    for path in sorted(package.rglob("*.py")):
        hasher.update(f"{path.relative_to(package)}".encode() + path.read_bytes())
    return hasher.hexdigest()


def seed_of(text: str) -> int:
    """A seed for a random generator, the same on every machine."""
    return xxhash.xxh3_64_intdigest(text.encode()) & (2**63 - 1)
