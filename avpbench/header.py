"""A parcel's header: what it says, written and read. Reading believes nothing: every kind of malformed header is a WireError."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any, final

import torch
from torch import Tensor

from avpbench.core import CacheCard, ModelSpec
from avpbench.errors import WireError

FORMAT, VERSION = "avpbench", "2"
MAX_BYTES = 2**20
_MAX_TENSORS = 4096  # of a cache of 2,048 layers
_MAX_OPENED = 16 * 1024  # lists and objects, four a tensor: an empty list takes twenty times the memory of its two characters
_MAX_ELEMENTS = 2**48
_MAX_AXES = 8
_ALIGN = 64
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
DIGEST_HEX = 32
OPENING = b'{"__metadata__":{"digest":"'
DIGEST_AT = slice(8 + len(OPENING), 8 + len(OPENING) + DIGEST_HEX)


def written(tensors: dict[str, Tensor], card: CacheCard) -> tuple[bytes, Layout]:
    """The JSON header with its digest still zero, and where every tensor lies behind it."""
    runs = _runs(tensors)
    table = {run.names[0]: {"dtype": _NAMES[run.dtype], "shape": run.stacked, "data_offsets": [run.start, run.stop]} for run in runs}
    who = {name: getattr(card.sender, name) for name in ModelSpec.__slots__}
    plain = json.dumps({"kind": card.kind, "sender": who, "body": card.body, "decision": card.decision}, ensure_ascii=False)
    stacks = json.dumps([run.names for run in runs if len(run.names) > 1], ensure_ascii=False, separators=(",", ":"))
    metadata = {"digest": "0" * DIGEST_HEX, "format": FORMAT, "version": VERSION, "card": plain, "stacks": stacks}
    header = json.dumps({"__metadata__": metadata, **table}, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _ALIGN)
    return header, Layout(8 + len(header), runs)


def parsed(header: memoryview, begin: int) -> tuple[CacheCard, Layout]:
    """The card, and where each tensor lies; every kind of malformed header is a WireError."""
    plain = bytes(header)
    if (opened := plain.count(b"[") + plain.count(b"{")) > _MAX_OPENED:
        raise WireError(f"parcel header with {opened} lists and objects; at most {_MAX_OPENED} are taken")
    try:
        table = json.loads(plain)
        metadata = table.pop("__metadata__")
        if (metadata["format"], metadata["version"]) != (FORMAT, VERSION):
            raise WireError(
                f"parcel of format {_short(metadata['format'])} version {_short(metadata['version'])}; wanted {FORMAT} {VERSION}"
            )
        return _card(json.loads(metadata["card"])), _layout(table, _stacks(json.loads(metadata["stacks"]), table), begin)
    except WireError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"parcel header is malformed: {type(error).__name__}: {_short(error)}") from error


def _short(value: object) -> str:
    """What a stranger's header says, cut to fit a message."""
    text = str(value) if isinstance(value, Exception) else repr(value[:20] if isinstance(value, list) else value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _card(raw: Any) -> CacheCard:
    sender = ModelSpec(**raw["sender"])
    for field in fields(ModelSpec):
        wanted = int if field.type == "int" else str
        if type(getattr(sender, field.name)) is not wanted:
            raise WireError(f"card: sender.{field.name} must be {wanted.__name__}, got {_short(getattr(sender, field.name))}")
    if type(raw["kind"]) is not str or type(raw["body"]) is not dict or type(raw["decision"]) not in (str, type(None)):
        raise WireError("card: kind must be a string, body an object, decision a string or null")
    return CacheCard(raw["kind"], sender, raw["body"], raw["decision"])


@final
@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours of one dtype and shape, `size` bytes each, from byte `start` of the data on. A reader of safetensors sees them stacked."""

    names: list[str]
    dtype: torch.dtype
    shape: list[int]
    size: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.names) * self.size

    @property
    def stacked(self) -> list[int]:
        """The shape that the header gives: one tensor has its own."""
        return self.shape if len(self.names) == 1 else [len(self.names), *self.shape]

    def together(self, parcel: memoryview, begin: int) -> Tensor:
        """All of them as one view of the parcel, whose data begin there, along an axis before their own."""
        if not self.size:
            return torch.empty(len(self.names), *self.shape, dtype=self.dtype)
        count = len(self.names) * (self.size // self.dtype.itemsize)
        return torch.frombuffer(parcel, dtype=self.dtype, count=count, offset=begin + self.start).view(len(self.names), *self.shape)


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tensors lie in a parcel whose data begin at byte `begin`: run after run, without gap."""

    begin: int
    runs: list[Run]

    @property
    def end(self) -> int:
        """The parcel's length."""
        return self.begin + (self.runs[-1].stop if self.runs else 0)

    def names(self) -> list[str]:
        """Every tensor's, in order."""
        return [name for run in self.runs for name in run.names]

    def stops(self) -> list[int]:
        """The byte of the parcel before which each tensor ends, in order."""
        return [self.begin + run.start + (k + 1) * run.size for run in self.runs for k in range(len(run.names))]

    def views(self, parcel: memoryview) -> list[Tensor]:
        """Every tensor, in order, as a view of the parcel."""
        return [view for run in self.runs for view in run.together(parcel, self.begin).unbind()]


def _runs(tensors: dict[str, Tensor]) -> list[Run]:
    """By falling element size, so that each tensor is aligned."""
    runs: list[Run] = []
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    for (dtype, shape), same in groupby(ordered, key=lambda item: (item[1].dtype, item[1].shape)):
        names = [name for name, _ in same]
        runs.append(Run(names, dtype, list(shape), math.prod(shape) * dtype.itemsize, runs[-1].stop if runs else 0))
    return runs


def _stacks(raw: Any, table: dict[str, Any]) -> dict[str, list[str]]:
    """The names of the tensors in each stack, by the first, under which the table has it."""
    if type(raw) is not list or any(type(names) is not list or len(names) < 2 or {*map(type, names)} != {str} for names in raw):
        raise WireError(f"stacks must be lists of two names or more, got {_short(raw)}")
    if (count := sum(map(len, raw)) + len(table) - len(raw)) > _MAX_TENSORS:
        raise WireError(f"a parcel of {count} tensors; at most {_MAX_TENSORS} are taken")
    stacks = {names[0]: names for names in raw}
    every = [name for names in stacks.values() for name in names] + [name for name in table if name not in stacks]
    if len(stacks) != len(raw) or not stacks.keys() <= table.keys() or len({*every}) != len(every):
        raise WireError("a stack has no tensor, or two tensors have one name")
    return stacks


def _layout(table: dict[str, Any], stacks: dict[str, list[str]], begin: int) -> Layout:
    """Where the tensors lie, which must be in order, without gap or overlap."""
    runs: list[Run] = []
    at = 0
    for name, row in table.items():
        shape, (start, stop) = row["shape"], row["data_offsets"]
        if row["dtype"] not in _DTYPES:
            raise WireError(f"tensor {_short(name)} has unknown dtype {_short(row['dtype'])}")
        if len(shape) > _MAX_AXES or any(type(n) is not int or not 0 <= n < _MAX_ELEMENTS for n in (*shape, start, stop)):
            raise WireError(
                f"tensor {_short(name)}: shape {_short(shape)} and offsets {_short(start)}, {_short(stop)} must be whole numbers from 0"
                f" to {_MAX_ELEMENTS}, of at most {_MAX_AXES} axes"
            )
        if math.prod(n for n in shape if n) >= _MAX_ELEMENTS:
            raise WireError(f"tensor {_short(name)} has shape {shape}, which no memory holds")
        dtype = _DTYPES[row["dtype"]]
        size = math.prod(shape) * dtype.itemsize
        if start != at or stop - start != size:
            raise WireError(f"tensor {_short(name)} of {size} bytes claims {start} to {stop}; wanted {at} to {at + size}")
        if (begin + start) % dtype.itemsize:
            raise WireError(f"tensor {_short(name)} of {row['dtype']} begins at byte {begin + start}, which is not aligned")
        at = stop
        names = stacks.get(name, [name])
        if len(names) > 1:
            if not shape or shape[0] != len(names):
                raise WireError(f"stack {_short(name)} of {len(names)} names has shape {_short(shape)}")
            size, shape = size // len(names), shape[1:]
        runs.append(Run(names, dtype, shape, size, start))
    return Layout(begin, runs)
