"""Parcels to bytes and back: the only serializer, the only counter of bytes.

The bytes are one safetensors file: eight bytes of header length, a JSON header, one raw buffer. The header's metadata
hold the card and a digest (XXH3-128) over everything else. Encoding costs one copy of the tensors, decoding none: its
tensors are views of the buffer. A receiver allocates nothing before the header was checked against the buffer's size.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, fields
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from avpbench.core import CacheCard, ModelSpec, Parcel
from avpbench.errors import WireError

FORMAT, VERSION = "avpbench", "1"
MAX_HEADER_BYTES = 16 * 2**20
_MAX_ELEMENTS = 2**48
_MAX_AXES = 8
_ALIGN = 64
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_DIGEST_HEX = 32
_OPENING = b'{"__metadata__":{"digest":"'
_DIGEST_AT = slice(8 + len(_OPENING), 8 + len(_OPENING) + _DIGEST_HEX)


def num_bytes(parcel: Parcel) -> int:
    """The length of the parcel's buffer, which is not made: the tensors may be on the meta device."""
    header, _, ends = _header(_ordered(parcel.tensors), parcel.card)
    return 8 + len(header) + (ends[-1] if ends else 0)


def encode(parcel: Parcel) -> memoryview:
    """The parcel as one buffer. Tensors are copied once, from whatever device and strides they have."""
    tensors = _ordered(parcel.tensors)
    header, sizes, ends = _header(tensors, parcel.card)
    begin = 8 + len(header)
    buffer = np.empty(begin + (ends[-1] if ends else 0), dtype=np.uint8)
    view = memoryview(buffer)  # type: ignore[arg-type]  # numpy arrays are buffers
    view[:begin] = struct.pack("<Q", len(header)) + header
    data = torch.from_numpy(buffer)
    for t, size, end in zip(tensors.values(), sizes, ends, strict=True):
        if size:
            data[begin + end - size : begin + end].view(t.dtype).view(t.shape).copy_(t)
    view[_DIGEST_AT] = xxhash.xxh3_128_hexdigest(view).encode()
    return view


def _ordered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """By falling element size, so that each is aligned."""
    return dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))


def _header(tensors: dict[str, Tensor], card: CacheCard) -> tuple[bytes, list[int], list[int]]:
    """The JSON header with its digest still zero, and every tensor's size and end in the data."""
    sizes = [t.numel() * t.element_size() for t in tensors.values()]
    ends = list(accumulate(sizes))
    table = {
        name: {"dtype": _NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [end - size, end]}
        for (name, t), size, end in zip(tensors.items(), sizes, ends, strict=True)
    }
    plain = json.dumps({"kind": card.kind, "sender": asdict(card.sender), "body": card.body, "decision": card.decision}, ensure_ascii=False)
    metadata = {"digest": "0" * _DIGEST_HEX, "format": FORMAT, "version": VERSION, "card": plain}
    header = json.dumps({"__metadata__": metadata, **table}, ensure_ascii=False, separators=(",", ":")).encode()
    return header + b" " * (-(8 + len(header)) % _ALIGN), sizes, ends


def decode(buffer: memoryview | bytearray | bytes, max_bytes: int | None = None) -> Parcel:
    """The parcel in these bytes; its tensors are views of them.

    Raises WireError, naming what was wrong, for bytes that are not exactly one undamaged parcel or exceed `max_bytes`.
    """
    view = memoryview(buffer)
    if max_bytes is not None and view.nbytes > max_bytes:
        raise WireError(f"parcel of {view.nbytes} bytes exceeds the limit of {max_bytes} bytes")
    if view.readonly:
        view = memoryview(bytearray(view))
    begin = _checked_digest(view)
    try:
        header = json.loads(bytes(view[8:begin]))
        metadata = header.pop("__metadata__")
        if (metadata["format"], metadata["version"]) != (FORMAT, VERSION):
            raise WireError(
                f"parcel of format {_short(metadata['format'])} version {_short(metadata['version'])}; wanted {FORMAT} {VERSION}"
            )
        card = _card(json.loads(metadata["card"]))
        tensors = _tensors(header, view, begin)
    except WireError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"parcel header is malformed: {type(error).__name__}: {_short(error)}") from error
    return Parcel(card, tensors)


def _short(value: object) -> str:
    """What a stranger's header says, cut to fit a message."""
    text = str(value) if isinstance(value, Exception) else repr(value[:20] if isinstance(value, list) else value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _checked_digest(view: memoryview) -> int:
    """Where the data begin, after the length, the opening and the digest were found right."""
    if len(view) < 8 + len(_OPENING) + _DIGEST_HEX:
        raise WireError(f"parcel is truncated: {len(view)} bytes do not hold a header")
    (length,) = struct.unpack("<Q", view[:8])
    if length > MAX_HEADER_BYTES or 8 + length > len(view):
        limit = min(MAX_HEADER_BYTES, len(view) - 8)
        raise WireError(f"parcel header claims {length} bytes; at most {limit} are possible here: truncated or corrupt")
    if view[8 : 8 + len(_OPENING)] != _OPENING:
        raise WireError("parcel does not begin with a digest: not a parcel of avpbench")
    digest = bytes(view[_DIGEST_AT])
    hasher = xxhash.xxh3_128(view[: _DIGEST_AT.start])
    hasher.update(b"0" * _DIGEST_HEX)
    hasher.update(view[_DIGEST_AT.stop :])
    if hasher.hexdigest().encode() != digest:
        raise WireError(f"parcel digest is {hasher.hexdigest()}, its header says {digest!r}: corrupt or truncated")
    return int(8 + length)


def _card(raw: Any) -> CacheCard:
    sender = ModelSpec(**raw["sender"])
    for field in fields(ModelSpec):
        wanted = int if field.type == "int" else str
        if type(getattr(sender, field.name)) is not wanted:
            raise WireError(f"card: sender.{field.name} must be {wanted.__name__}, got {_short(getattr(sender, field.name))}")
    if type(raw["kind"]) is not str or type(raw["body"]) is not dict or type(raw["decision"]) not in (str, type(None)):
        raise WireError("card: kind must be a string, body an object, decision a string or null")
    return CacheCard(raw["kind"], sender, raw["body"], raw["decision"])


def _tensors(table: dict[str, Any], view: memoryview, begin: int) -> dict[str, Tensor]:
    """Views of the data, which they must cover exactly, in order and without overlap."""
    tensors, at = {}, 0
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
        if begin + stop > len(view):
            raise WireError(f"tensor {_short(name)} ends at byte {begin + stop} of a parcel of {len(view)}")
        at = stop
        tensors[name] = (
            torch.frombuffer(view, dtype=dtype, count=math.prod(shape), offset=begin + start).view(shape)
            if size
            else torch.empty(shape, dtype=dtype)
        )
    if begin + at != len(view):
        raise WireError(f"parcel has {len(view) - begin - at} bytes that belong to no tensor")
    return tensors
