"""Bandwidths as people write them; one spelling each, so that one rate is one cell."""

from __future__ import annotations

import re

from avpbench.errors import ConfigError

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def bits_per_s(key: str, value: object) -> float | None:
    """Bits a second of `10Gbps` or `250Mbps`; None for null, which means unlimited. Raises ConfigError for anything else."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)bps", value) if isinstance(value, str) else None
    rate = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if rate <= 0:
        raise ConfigError(f"{key} must be a rate like 100Mbps, 1Gbps or 10Gbps, or null (unlimited); got {value!r}")
    return rate
