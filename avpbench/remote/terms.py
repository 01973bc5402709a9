"""What two processes agree on before they talk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from avpbench.checks import number, whole
from avpbench.errors import ConfigError
from avpbench.rates import bits_per_s

CONTROL_BYTES = 16 * 2**20  # the longest message that is not a parcel's chunk
_HEADROOM = 2.0  # a shaped stream may take so many times its own length before it counts as too slow


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """The link's limits. `deadline_s`: for a parcel to arrive, beyond what its bandwidth takes; `turn_s`: for a whole turn."""

    bandwidth: str | None
    processes: int
    chunk_bytes: int
    window_chunks: int
    max_bytes: int
    deadline_s: float
    turn_s: float

    def __post_init__(self) -> None:
        whole("link.processes", self.processes, 2)  # neighbours live apart, or nothing would leave a process
        for name in ("chunk_bytes", "window_chunks", "max_bytes"):
            whole(f"link.{name}", getattr(self, name), 1)
        number("link.deadline_s", self.deadline_s, 0, 86_400, open_low=True)
        number("link.turn_s", self.turn_s, 0, 7 * 86_400, open_low=True)
        if self.bandwidth_bps is not None and 8 * 65_536 / self.bandwidth_bps > self.deadline_s:
            raise ConfigError(
                f"link.bandwidth={self.bandwidth} does not carry 64 KiB within link.deadline_s={self.deadline_s}; raise one of the two"
            )

    @property
    def bandwidth_bps(self) -> float | None:
        return bits_per_s("link.bandwidth", self.bandwidth)

    def patience_s(self, num_bytes: int) -> float:
        """How long a parcel may take to arrive."""
        shaped = 0.0 if self.bandwidth_bps is None else _HEADROOM * 8 * num_bytes / self.bandwidth_bps
        return self.deadline_s + shaped

    def piece_bytes(self) -> int:
        """A chunk: under a bandwidth at most 5 ms of it, so that the stream is smooth."""
        if self.bandwidth_bps is None:
            return self.chunk_bytes
        return max(1024, min(self.chunk_bytes, int(self.bandwidth_bps * 0.005 / 8)))


def require_zmq() -> Any:
    """The transport. Raises ConfigError where it is not installed."""
    try:
        import zmq
    except ImportError as error:
        raise ConfigError("link=remote needs ZeroMQ: pip install 'avpbench[remote]'") from error
    return zmq
