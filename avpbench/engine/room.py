"""Whether a model's weights fit into the memory that is free, before the kernel ends the process over them."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from avpbench.errors import OutOfMemory
from avpbench.estimate import Shape

_MEMINFO = Path("/proc/meminfo")


def require_room(name: str, shape: Shape | None, device: torch.device, dtype: torch.dtype) -> None:
    """Raises OutOfMemory where the weights alone are more than what is available; where either is not known they may be tried."""
    available = available_bytes(device)
    if shape is None or available is None or (needed := shape.parameters * dtype.itemsize) <= available:
        return
    ways = ["a smaller model", *(["dtype=bfloat16"] if dtype.itemsize > torch.bfloat16.itemsize else []), "another device (device=)"]
    raise OutOfMemory(
        f"the weights of {name} take {needed / 2**30:.1f} GiB in {str(dtype).removeprefix('torch.')}, and {available / 2**30:.1f} GiB of"
        f" memory are available on {device}; choose {', '.join(ways[:-1])} or {ways[-1]}"
    )


def available_bytes(device: torch.device) -> int | None:
    """Memory that can be had now, on a GPU with what this process holds and does not use; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = re.search(r"^MemAvailable: +(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE) if _MEMINFO.is_file() else None
    return int(found[1]) * 1024 if found else None
