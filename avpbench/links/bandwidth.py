"""The token bucket that shapes a stream to `link.bandwidth`."""

from __future__ import annotations

from typing import final

_DEPTH_S = 0.005  # how far a stream may catch up when its thread was late


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
