"""Bandwidths as people write them."""

from __future__ import annotations

import re

from avpbench.errors import ConfigError

_UNITS = {"bps": 1.0, "kbps": 1e3, "mbps": 1e6, "gbps": 1e9, "tbps": 1e12}


def bits_per_s(key: str, value: object) -> float | None:
    """Bits a second of `10Gbps`, `250Mbps` or a plain number; None for null, which means unlimited. Raises ConfigError."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"):
        return float(value)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?bps)", value.strip().lower()) if isinstance(value, str) else None
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"{key} must be bits a second, e.g. 10Gbps, or null (unlimited), got {value!r}")
    return float(found[1]) * _UNITS[found[2]]
