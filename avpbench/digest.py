"""Short names for long things: XXH3 over text and JSON."""

from __future__ import annotations

import json
from typing import Any

import xxhash


def of_text(text: str) -> str:
    """16 hex digits that depend on every character."""
    return xxhash.xxh3_64_hexdigest(text.encode())


def of_json(value: Any) -> str:
    """The same for plain values, whatever order their keys are in."""
    return of_text(json.dumps(value, sort_keys=True))


def seed_of(text: str) -> int:
    """A seed for a random generator, the same on every machine."""
    return xxhash.xxh3_64_intdigest(text.encode()) & (2**63 - 1)
