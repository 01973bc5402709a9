"""Parcels to bytes and back: the only serializer, the only counter of bytes.

The bytes are one safetensors file: eight bytes of header length, a JSON header, one raw buffer. Neighbours of one dtype and shape are
one stack in it. The header's metadata hold the card and a digest (XXH3-128) over everything else. Encoding costs one copy of the
tensors, decoding none: its tensors are views of the buffer. A receiver allocates nothing before the header was checked against the
buffer's size, or, where bytes arrive piece by piece (`Decoder`), against the limit.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import final

import numpy as np
import torch
import xxhash
from torch import Tensor

from avpbench import header
from avpbench.core import CacheCard, Parcel
from avpbench.errors import WireError
from avpbench.header import DIGEST_AT as _DIGEST_AT
from avpbench.header import DIGEST_HEX, OPENING, parsed, written


def num_bytes(parcel: Parcel) -> int:
    """The length of the parcel's buffer, which is not made: the tensors may be on the meta device."""
    return written(parcel.tensors, parcel.card)[1].end


def encode(parcel: Parcel) -> memoryview:
    """The parcel as one buffer. Tensors are copied once, from whatever device and strides they have."""
    head, layout = written(parcel.tensors, parcel.card)
    view = memoryview(np.empty(layout.end, dtype=np.uint8))  # type: ignore[arg-type]  # numpy arrays are buffers
    view[: layout.begin] = struct.pack("<Q", len(head)) + head
    for run in layout.runs:
        _copy([parcel.tensors[name] for name in run.names], run.together(view, layout.begin))
    view[_DIGEST_AT] = xxhash.xxh3_128_hexdigest(view).encode()
    return view


def _copy(tensors: list[Tensor], places: Tensor) -> None:
    """Each into its place. In one call where they are in this machine's memory: a call a tensor costs more than the copy of a small one."""
    if all(t.is_cpu for t in tensors):
        torch.stack(tensors, out=places)
    else:
        for t, place in zip(tensors, places, strict=True):
            place.copy_(t)


def decode(buffer: memoryview | bytearray | bytes) -> Parcel:
    """The parcel in these bytes; its tensors are views of them.

    Raises WireError, naming what was wrong, for bytes that are not exactly one undamaged parcel.
    """
    view = memoryview(buffer)
    if view.readonly:
        view = memoryview(bytearray(view))
    begin = _checked_digest(view)
    card, layout = parsed(view[8:begin], begin)
    if layout.end != len(view):
        raise WireError(f"parcel of {len(view)} bytes; its tensors end at byte {layout.end}")
    return Parcel(card, dict(zip(layout.names(), layout.views(view), strict=True)))


def seal(buffer: memoryview) -> str:
    """The digest that an encoded parcel's header holds, as hex digits."""
    return bytes(buffer[_DIGEST_AT]).decode(errors="replace")


@final
class Decoder:
    """A parcel as it arrives, in pieces of any size: the header is checked when it is whole, then memory is taken, and each
    tensor is a view as soon as its last byte is there.

    Nothing is to be used before `parcel` gave it: only then has the digest been compared.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._limit, self._head, self._hasher = max_bytes, bytearray(), xxhash.xxh3_128()
        self._card: CacheCard | None = None
        self._view, self._at = memoryview(b""), 0
        self._names: list[str] = []
        self._stops: list[int] = []
        self._tensors: list[Tensor] = []
        self._whole = 0  # tensors whose last byte is here

    @property
    def num_bytes(self) -> int | None:
        """The whole parcel's length, once the header was there."""
        return None if self._card is None else len(self._view)

    @property
    def arrived_bytes(self) -> int:
        """How many bytes are here."""
        return max(self._at, len(self._head))

    @property
    def seal(self) -> str:
        """The digest that the header holds, once it was there."""
        return seal(self._view)

    @property
    def done(self) -> bool:
        """Whether every byte has arrived."""
        return self._card is not None and self._at == len(self._view)

    def feed(self, piece: memoryview | bytes) -> list[str]:
        """Takes the next bytes; returns the names of the tensors that they completed. Raises WireError."""
        rest = memoryview(piece)
        while self._card is None and rest:
            wanted = 8 if len(self._head) < 8 else self._begin()
            cut = wanted - len(self._head)
            self._head += rest[:cut]
            rest = rest[cut:]
            if len(self._head) == 8:
                self._begin()  # an impossible length is refused before anything of it is kept
            elif len(self._head) == wanted:
                self._open()
        if self._card is None:
            return []
        end = self._at + len(rest)
        if end > len(self._view):
            raise WireError(f"stream goes on after the parcel's {len(self._view)} bytes")
        self._view[self._at : end] = rest
        self._hasher.update(self._view[self._at : end])
        self._at = end
        before, self._whole = self._whole, bisect_right(self._stops, end)
        return self._names[before : self._whole]

    def _begin(self) -> int:
        """Where the data begin."""
        (length,) = struct.unpack("<Q", self._head[:8])
        if not len(OPENING) + DIGEST_HEX <= length <= header.MAX_BYTES:
            raise WireError(f"parcel header claims {length} bytes; at most {header.MAX_BYTES} are possible: corrupt, or no parcel")
        return int(8 + length)

    def _open(self) -> None:
        """Reads the header, and takes memory for the whole parcel."""
        begin = len(self._head)
        if self._head[8 : 8 + len(OPENING)] != OPENING:
            raise WireError("parcel does not begin with a digest: not a parcel of avpbench")
        card, layout = parsed(memoryview(self._head)[8:], begin)
        _check_limit(layout.end, self._limit)
        try:
            self._view = memoryview(np.empty(layout.end, dtype=np.uint8))  # type: ignore[arg-type]  # numpy arrays are buffers
        except MemoryError as error:
            raise WireError(f"parcel of {layout.end} bytes does not fit into this machine's memory") from error
        self._names, self._stops, self._tensors = layout.names(), layout.stops(), layout.views(self._view)
        self._view[:begin] = self._head
        self._hasher.update(self._head[: _DIGEST_AT.start] + b"0" * DIGEST_HEX + self._head[_DIGEST_AT.stop :])
        self._card, self._at = card, begin

    def parcel(self) -> Parcel:
        """The whole parcel. Raises WireError where bytes are missing or damaged."""
        if self._card is None or not self.done:
            raise WireError(f"parcel is truncated: {self.arrived_bytes} of {self.num_bytes or 'unknown'} bytes arrived")
        _compare(self._hasher, seal(self._view))
        return Parcel(self._card, dict(zip(self._names, self._tensors, strict=True)))


def _check_limit(num_bytes: int, limit: int | None) -> None:
    if limit is not None and num_bytes > limit:
        raise WireError(f"parcel of {num_bytes} bytes exceeds the limit of {limit} bytes")


def _checked_digest(view: memoryview) -> int:
    """Where the data begin, after the length, the opening and the digest were found right."""
    if len(view) < 8 + len(OPENING) + DIGEST_HEX:
        raise WireError(f"parcel is truncated: {len(view)} bytes do not hold a header")
    (length,) = struct.unpack("<Q", view[:8])
    if length > header.MAX_BYTES or 8 + length > len(view):
        limit = min(header.MAX_BYTES, len(view) - 8)
        raise WireError(f"parcel header claims {length} bytes; at most {limit} are possible here: truncated or corrupt")
    if view[8 : 8 + len(OPENING)] != OPENING:
        raise WireError("parcel does not begin with a digest: not a parcel of avpbench")
    hasher = xxhash.xxh3_128(view[: _DIGEST_AT.start])
    hasher.update(b"0" * DIGEST_HEX)
    hasher.update(view[_DIGEST_AT.stop :])
    _compare(hasher, seal(view))
    return int(8 + length)


def _compare(hasher: xxhash.xxh3_128, said: str) -> None:
    if hasher.hexdigest() != said:
        raise WireError(f"parcel digest is {hasher.hexdigest()}, its header says {said!r}: corrupt or truncated")
