"""A parcel's header: what it says, written and read. Reading believes nothing: every kind of malformed header is a WireError."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from itertools import accumulate, groupby
from typing import Any, final

import torch
from torch import Tensor

from avpbench.core import CacheCard, ModelSpec
from avpbench.errors import WireError

FORMAT, VERSION = "avpbench", "1"
MAX_BYTES = 16 * 2**20
_MAX_ELEMENTS = 2**48
_MAX_AXES = 8
_ALIGN = 64
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
DIGEST_HEX = 32
OPENING = b'{"__metadata__":{"digest":"'
DIGEST_AT = slice(8 + len(OPENING), 8 + len(OPENING) + DIGEST_HEX)


def written(tensors: dict[str, Tensor], card: CacheCard) -> tuple[bytes, Layout]:
    """The JSON header with its digest still zero, and where every tensor lies behind it."""
    kinds = [(t.dtype, list(t.shape), t.numel() * t.element_size()) for t in tensors.values()]
    rows, stop = [], 0
    for name, (dtype, shape, size) in zip(tensors, kinds, strict=True):
        rows.append(f'{_JSON(name)}:{{"dtype":"{_NAMES[dtype]}","shape":{str(shape).replace(" ", "")},"data_offsets":[{stop},{stop + size}]}}')
        stop += size
    plain = json.dumps({"kind": card.kind, "sender": asdict(card.sender), "body": card.body, "decision": card.decision}, ensure_ascii=False)
    metadata = {"digest": "0" * DIGEST_HEX, "format": FORMAT, "version": VERSION, "card": plain}
    header = ("{" + ",".join(['"__metadata__":' + _JSON(metadata), *rows]) + "}").encode()
    header += b" " * (-(8 + len(header)) % _ALIGN)
    return header, _laid(list(tensors), kinds, 8 + len(header))


def parsed(header: memoryview, begin: int) -> tuple[CacheCard, Layout]:
    """The card, and where each tensor lies; every kind of malformed header is a WireError."""
    try:
        table = json.loads(bytes(header))
        metadata = table.pop("__metadata__")
        if (metadata["format"], metadata["version"]) != (FORMAT, VERSION):
            raise WireError(
                f"parcel of format {_short(metadata['format'])} version {_short(metadata['version'])}; wanted {FORMAT} {VERSION}"
            )
        return _card(json.loads(metadata["card"])), _layout(table, begin)
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


Kind = tuple[torch.dtype, list[int], int]  # dtype, shape and bytes of a tensor


@final
@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours of one kind: `count` of them, from byte `start` of the whole parcel on."""

    kind: Kind
    start: int
    count: int

    def together(self, parcel: memoryview) -> Tensor:
        """All of them as one view of the parcel's bytes, along an axis before their own."""
        dtype, shape, size = self.kind
        if not size:
            return torch.empty(self.count, *shape, dtype=dtype)
        flat = torch.frombuffer(parcel, dtype=dtype, count=self.count * math.prod(shape), offset=self.start)
        return flat.view(self.count, *shape)


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tensors lie, in order: `names[k]` ends before byte `stops[k]` of the whole parcel, the parcel itself before `end`."""

    names: list[str]
    stops: list[int]
    runs: list[Run]
    end: int

    def views(self, parcel: memoryview) -> list[Tensor]:
        """Every tensor, as a view of the parcel's bytes."""
        return [view for run in self.runs for view in run.together(parcel).unbind()]


def _laid(names: list[str], kinds: list[Kind], begin: int) -> Layout:
    """Tensors one behind the other from byte `begin` on."""
    stops = list(accumulate((size for _, _, size in kinds), initial=begin))
    runs, first = [], 0
    for kind, same in groupby(kinds):
        runs.append(Run(kind, stops[first], sum(1 for _ in same)))
        first += runs[-1].count
    return Layout(names, stops[1:], runs, stops[-1])


def _layout(table: dict[str, Any], begin: int) -> Layout:
    """Where the tensors lie, which must be in order, without gap or overlap."""
    kinds: list[Kind] = []
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
        dtype = _DTYPES[row["dtype"]]
        kind = kinds[-1] if kinds and kinds[-1][:2] == (dtype, shape) else _kind(name, dtype, shape)
        size = kind[2]
        if start != at or stop - start != size:
            raise WireError(f"tensor {_short(name)} of {size} bytes claims {start} to {stop}; wanted {at} to {at + size}")
        if (begin + start) % dtype.itemsize:
            raise WireError(f"tensor {_short(name)} of {row['dtype']} begins at byte {begin + start}, which is not aligned")
        at = stop
        kinds.append(kind)
    return _laid(list(table), kinds, begin)


def _kind(name: str, dtype: torch.dtype, shape: list[int]) -> Kind:
    """Raises WireError for a shape that no memory holds."""
    if math.prod(n for n in shape if n) >= _MAX_ELEMENTS:
        raise WireError(f"tensor {_short(name)} has shape {shape}, which no memory holds")
    return dtype, shape, math.prod(shape) * dtype.itemsize
