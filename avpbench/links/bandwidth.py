"""`link.bandwidth`: how it is written, and the token bucket that shapes a stream to it."""

from __future__ import annotations

import re
from typing import final

from avpbench.errors import ConfigError

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_DEPTH_S = 0.005  # how far a stream may catch up when its thread was late


def bits_per_second(value: object) -> float | None:
    """`1Gbps` -> 1e9; None stays None: unlimited. Raises ConfigError for anything else."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)bps", value) if isinstance(value, str) else None
    rate = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if rate <= 0:
        raise ConfigError(f"link.bandwidth must be a rate like 100Mbps, 1Gbps or 10Gbps, or null (unlimited); got {value!r}")
    return rate


@final
class TokenBucket:
    """When the bytes of a stream may leave. Seconds are the caller's own clock's.

    A stream begins with an empty bucket, so `n` bytes take 8 n / rate seconds from `begin`; a sender that was late may
    catch up by what fits into the bucket.
    """

    def __init__(self, bits_per_s: float) -> None:
        self._rate, self._free_s = bits_per_s, 0.0

    def begin(self, now_s: float) -> None:
        """A stream begins: nothing that was left over while the line was idle counts."""
        self._free_s = max(self._free_s, now_s)

    def due_s(self, num_bytes: int, now_s: float) -> float:
        """When these bytes will have been let through; they are booked."""
        self._free_s = max(self._free_s, now_s - _DEPTH_S) + 8 * num_bytes / self._rate
        return self._free_s
