"""K/V in AVP's wire format, version 1, both ways, bit for bit (package `avp`, https://pypi.org/project/avp).

A message is 12 bytes of header, protobuf metadata and a payload: 17 bytes of shape, then K and V of every layer. It holds
neither token ids nor positions, one sample, and at most 4 GiB. Ours is written with one copy and read as views of its buffer;
the metadata's schema is the `avp` package's own: pip install 'avpbench[avp]'.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avpbench.core import KVCache, ModelSpec
from avpbench.errors import NotFound, WireError, cause

_MAGIC, _VERSION = b"AV", 1
_COMPRESSED, _KV = 1, 4  # flags
_HEADER, _SHAPE = struct.Struct("<2sBBII"), struct.Struct("<IIIIB")
_LONGEST, _MOST_METADATA = 2**32 - 1, 2**20
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # a dtype's code is its place


def to_avp(cache: KVCache, sender: ModelSpec) -> memoryview:
    """The K/V as an AVP message. Raises WireError for what the format cannot hold, NotFound without the `avp` package."""
    rows = [t for pair in zip(cache.keys_HTD, cache.values_HTD, strict=True) for t in pair]
    heads, tokens, head_dim = rows[0].shape
    if cache.span != tokens or not torch.equal(cache.positions_T.cpu(), torch.arange(tokens)):
        raise WireError(f"AVP's format has no positions; this cache holds {tokens} of {cache.span} tokens. Use wire.encode")
    if rows[0].dtype not in _DTYPES:
        raise WireError(f"AVP's format holds float32, float16 and bfloat16; this cache is {rows[0].dtype}. Use wire.encode")
    size = rows[0].numel() * rows[0].element_size()
    if size * len(rows) > _LONGEST - _MOST_METADATA:
        raise WireError(f"AVP's format counts bytes with 32 bits; this cache takes {size * len(rows)} bytes. Use wire.encode")
    rows = [row.cpu().contiguous() for row in rows]
    shape = _SHAPE.pack(len(rows) // 2, heads, head_dim, tokens, _DTYPES.index(rows[0].dtype))
    checksum = zlib.crc32(shape)
    for row in rows:
        checksum = zlib.crc32(_bytes(row), checksum)
    said: bytes = _metadata(sender, _DTYPES.index(rows[0].dtype), checksum).SerializeToString()
    length = len(said) + len(shape) + size * len(rows)
    opening = _HEADER.pack(_MAGIC, _VERSION, _KV, length, len(said)) + said + shape
    buffer = np.empty(_HEADER.size + length, dtype=np.uint8)
    buffer[: len(opening)] = np.frombuffer(opening, dtype=np.uint8)
    for place, row in enumerate(rows):
        begin = len(opening) + place * size
        buffer[begin : begin + size] = _bytes(row)
    return memoryview(buffer)  # type: ignore[arg-type]  # numpy arrays are buffers


def _bytes(row: Tensor) -> Any:
    return row.view(-1).view(torch.uint8).numpy()


def _metadata(sender: ModelSpec, dtype: int, checksum: int) -> Any:
    meta = _schema().Metadata(num_layers=sender.num_layers, model_id=sender.name, payload_type=1, dtype=dtype, payload_checksum=checksum)
    for key, value in (("model_hash", sender.weights_id), ("model_family", sender.family), ("num_steps", "0")):
        meta.extra[key] = value
    return meta


def _schema() -> Any:
    try:
        from avp import avp_pb2
    except ImportError as error:
        raise NotFound("AVP's wire format wants the avp package; pip install 'avpbench[avp]'") from error
    return avp_pb2


def from_avp(message: memoryview | bytes, receiver: ModelSpec) -> KVCache:
    """The K/V in an AVP message, as views of it, for a receiver whose cache has that shape.

    The message does not prove whose weights made it: that is the caller's to know. Raises WireError for anything but one
    whole, uncompressed message of K/V that fits, NotFound without the `avp` package.
    """
    view = memoryview(message)
    if view.readonly:
        view = memoryview(bytearray(view))
    begin, checksum = _opened(view)
    if len(view) < begin + _SHAPE.size:
        raise WireError(f"AVP message of {len(view)} bytes ends before the shape of its K/V")
    layers, heads, head_dim, tokens, code = _SHAPE.unpack_from(view, begin)
    wanted = (receiver.num_layers, receiver.num_kv_heads, receiver.head_dim, receiver.dtype)
    got = (layers, heads, head_dim, str(_DTYPES[code]).removeprefix("torch.") if code < len(_DTYPES) else f"dtype code {code}")
    if got != wanted:
        raise WireError(f"AVP message of K/V of (layers, heads, head size, dtype) {got}; {receiver.name} has {wanted}")
    dtype, count = _DTYPES[code], math.prod((heads, tokens, head_dim))
    size, data = count * dtype.itemsize, begin + _SHAPE.size
    if len(view) != data + 2 * layers * size:
        raise WireError(f"AVP message of {len(view)} bytes; {layers} layers of {tokens} tokens end at byte {data + 2 * layers * size}")
    if zlib.crc32(view[begin:]) != checksum:
        raise WireError("AVP message's checksum does not fit its payload: corrupt")
    rows = [_row(view, dtype, count, data + place * size).view(heads, tokens, head_dim) for place in range(2 * layers)]
    return KVCache(tuple(rows[::2]), tuple(rows[1::2]), torch.arange(tokens), tokens)


def _row(view: memoryview, dtype: torch.dtype, count: int, offset: int) -> Tensor:
    """A tensor of these bytes; a copy where they are not aligned, since the format does not align them."""
    if not count:
        return torch.empty(0, dtype=dtype)
    if offset % dtype.itemsize == 0:
        return torch.frombuffer(view, dtype=dtype, count=count, offset=offset)
    return torch.frombuffer(view, dtype=torch.uint8, count=count * dtype.itemsize, offset=offset).clone().view(dtype)


def _opened(view: memoryview) -> tuple[int, int]:
    """Where the payload begins, and its checksum."""
    if len(view) < _HEADER.size:
        raise WireError(f"AVP message of {len(view)} bytes does not hold a header")
    magic, version, flags, length, said = _HEADER.unpack_from(view)
    if (magic, version) != (_MAGIC, _VERSION):
        raise WireError(f"not an AVP message of version {_VERSION}: it begins with {bytes(view[:3])!r}")
    if flags & _COMPRESSED or not flags & _KV:
        raise WireError(f"AVP message with flags {flags}; wanted K/V ({_KV}), uncompressed, as to_bytes() writes it")
    if len(view) != _HEADER.size + length or said > length:
        raise WireError(f"AVP message of {len(view)} bytes claims {_HEADER.size + length}, {said} of them metadata: truncated or corrupt")
    meta = _schema().Metadata()
    try:
        meta.ParseFromString(bytes(view[_HEADER.size : _HEADER.size + said]))
    except Exception as error:  # protobuf's DecodeError, whose home moves between its versions
        raise WireError(f"AVP message's metadata is malformed ({cause(error)})") from error
    if not meta.HasField("payload_checksum"):
        raise WireError("AVP message without a checksum; wanted one, as to_bytes() writes it")
    return _HEADER.size + said, int(meta.payload_checksum)
