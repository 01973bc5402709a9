"""The only timer: a monotonic clock, the device's events, and memory. Light to import: torch is asked only about a GPU.

On CUDA a total begins and ends with a synchronisation; stages inside it are events on the stream, which are cheap but
not free, so totals and stages come from separate repeats.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, final

from avpbench.limits import Rates

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def now_s() -> float:
    """Seconds on a monotonic clock; for rates and time left, not for results."""
    return time.monotonic()


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all its work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


@final
@dataclass(slots=True)
class Total:
    """Filled when its block ends."""

    seconds: float = float("nan")


@contextmanager
def total(device: torch.device) -> Iterator[Total]:
    """Times a block from an idle device to an idle device."""
    measured = Total()
    synchronize(device)
    started = time.perf_counter()
    yield measured
    synchronize(device)
    measured.seconds = time.perf_counter() - started


@final
@dataclass(slots=True)
class Stages:
    """Seconds by stage, in the order met. A stage met twice adds up."""

    device: torch.device
    _marks: list[tuple[str, object, object]] = field(default_factory=list)
    _charged: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = self._mark()
        yield
        self._marks.append((name, begin, self._mark()))

    def charge(self, name: str, seconds: float) -> None:
        """Books seconds that were modelled, not spent."""
        self._marks.append((name, 0.0, 0.0))
        self._charged.append((name, seconds))

    def _mark(self) -> object:
        if self.device.type == "cuda":
            import torch

            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            return event
        return time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """What each stage took. Synchronises once."""
        synchronize(self.device)
        spent: dict[str, float] = {}
        for name, begin, end in self._marks:
            spent[name] = spent.get(name, 0.0) + _between_s(begin, end)
        for name, seconds in self._charged:
            spent[name] += seconds
        return spent


def _between_s(begin: object, end: object) -> float:
    if isinstance(begin, float) and isinstance(end, float):
        return end - begin
    milliseconds: float = begin.elapsed_time(end)  # type: ignore[attr-defined]  # torch.cuda.Event
    return milliseconds / 1000


@final
class NoStages:
    """Stands where stages are not wanted: costs nothing."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        yield

    def charge(self, name: str, seconds: float) -> None:
        """Nothing is booked."""

    def seconds(self) -> None:
        """Nothing was measured."""


AnyStages = Stages | NoStages
NO_STAGES = NoStages()


@final
@dataclass(frozen=True, slots=True)
class Memory:
    """Peaks since `reset_peak`. None where the device does not say."""

    allocated_bytes: int | None
    reserved_bytes: int | None
    nvml_process_bytes: int | None
    peak_rss_bytes: int


def reset_peak(device: torch.device) -> int:
    """Starts a new peak; returns the bytes allocated now (the weights, before a run)."""
    with suppress(OSError):  # where Linux lets us; elsewhere the peak is the process's
        Path("/proc/self/clear_refs").write_text("5")
    if device.type != "cuda":
        return 0
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def memory(device: torch.device) -> Memory:
    """Memory peaks of the device and of this process."""
    rss = _peak_rss_bytes()
    if device.type != "cuda":
        return Memory(None, None, None, rss)
    import torch

    return Memory(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device), _nvml_bytes(device), rss)


def _peak_rss_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _nvml_bytes(device: torch.device) -> int | None:
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        rows = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
    return next((row.usedGpuMemory for row in rows if row.pid == os.getpid()), None)


_TRIES, _LONG_S = 5, 0.3


@lru_cache(maxsize=8)
def measured_rates(device: torch.device, dtype: torch.dtype, threads: int) -> Rates:
    """What a copy and a matrix product reach here, once a process.

    The best of at least five over 0.3 s, since a limit must not come too late. `threads` is torch's number of threads, which a CPU's
    rates depend on. Takes about a second, and 256 MiB (CUDA: 2 GiB).
    """
    import torch

    assert threads == torch.get_num_threads()
    on_cuda = device.type == "cuda"
    size, edge = (2**30, 8192) if on_cuda else (2**27, 1024)
    source, target = torch.ones(size, dtype=torch.uint8, device=device), torch.zeros(size, dtype=torch.uint8, device=device)
    copy_s = _best_s(device, lambda: target.copy_(source))
    upload_s = None
    if on_cuda:
        staged = torch.ones(2**28, dtype=torch.uint8, pin_memory=True)
        upload_s = _best_s(device, lambda: target[: 2**28].copy_(staged))
    a, b = (torch.ones(edge, edge, dtype=dtype, device=device) for _ in range(2))
    matmul_s = _best_s(device, lambda: torch.mm(a, b))
    return Rates(2 * size / copy_s, None if upload_s is None else 2**28 / upload_s, 2 * edge**3 / matmul_s)


def _best_s(device: torch.device, act: Callable[[], Tensor]) -> float:
    act()
    spent: list[float] = []
    while len(spent) < _TRIES or sum(spent) < _LONG_S:
        with total(device) as took:
            act()
        spent.append(took.seconds)
    return min(spent)
