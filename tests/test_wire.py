"""Bytes: exact both ways, readable by any safetensors reader, and never a crash whatever arrives."""

from __future__ import annotations

import json
import random
import resource
import struct
import time
import tracemalloc
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as safetensors_load

from avpbench import wire
from avpbench.core import CacheCard, ModelSpec, Parcel
from avpbench.errors import WireError

SPEC = ModelSpec("m", "w" * 32, "t" * 16, "qwen2", 2, 2, 8, "{}", "float32")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.uint8, torch.float8_e4m3fn)


def parcel(tensors: dict[str, torch.Tensor], **body: object) -> Parcel:
    return Parcel(CacheCard("raw", SPEC, body, None), tensors)


def sample() -> Parcel:
    return parcel({"a": torch.arange(6.0).view(2, 3), "b": torch.arange(5, dtype=torch.uint8)}, span=3, text="é⁂")


def bits(t: torch.Tensor) -> bytes:
    return t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), max_size=6), st.text(max_size=20))
def test_round_trip_is_exact(shapes: list[tuple[torch.dtype, list[int]]], text: str) -> None:
    tensors = {f"t{k}": torch.randint(0, 255, shape).to(dtype) for k, (dtype, shape) in enumerate(shapes)}
    sent = parcel(tensors, text=text)
    back = wire.decode(wire.encode(sent))
    assert back.card.body == sent.card.body
    assert back.card.sender == SPEC
    assert back.tensors.keys() == tensors.keys()
    for name, t in tensors.items():
        assert back.tensors[name].dtype == t.dtype
        assert back.tensors[name].shape == t.shape
        assert bits(back.tensors[name]) == bits(t)


def test_any_strides_are_carried() -> None:
    t = torch.randn(4, 6, 8)
    views = {"transposed": t.transpose(0, 2), "cut": t[:, 1:4], "stepped": t[::2], "expanded": t[:1].expand(3, 6, 8)}
    back = wire.decode(wire.encode(parcel(views)))
    assert all(torch.equal(back.tensors[name], view) for name, view in views.items())


def test_nan_and_infinity_keep_their_bits() -> None:
    t = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    assert bits(wire.decode(wire.encode(parcel({"t": t}))).tensors["t"]) == bits(t)


def test_decoding_copies_nothing() -> None:
    buffer = wire.encode(parcel({"t": torch.zeros(1000)}))
    back = wire.decode(buffer)
    buffer[-1] = 7
    assert float(back.tensors["t"].view(torch.uint8)[-1]) == 7


def test_a_safetensors_reader_opens_it() -> None:
    sent = sample()
    assert torch.equal(safetensors_load(bytes(wire.encode(sent)))["a"], sent.tensors["a"])


def test_bytes_and_writable_buffers_decode_alike() -> None:
    buffer = wire.encode(sample())
    for form in (buffer, bytes(buffer), bytearray(buffer)):
        assert torch.equal(wire.decode(form).tensors["a"], sample().tensors["a"])


def test_oversized_parcels_are_refused() -> None:
    buffer = wire.encode(sample())
    wire.Decoder(len(buffer)).feed(buffer)
    with pytest.raises(WireError, match="exceeds the limit"):
        wire.Decoder(len(buffer) - 1).feed(buffer)


def resealed(header: bytes, data: bytes = b"") -> bytearray:
    """A buffer with a right digest over whatever header it has: what a hostile sender would send."""
    header = header.ljust(len(header) + (-(8 + len(header)) % 64))
    buffer = bytearray(struct.pack("<Q", len(header)) + header + data)
    buffer[wire._DIGEST_AT] = b"0" * 32
    buffer[wire._DIGEST_AT] = xxhash.xxh3_128_hexdigest(bytes(buffer)).encode()
    return buffer


def header_of(buffer: memoryview) -> dict[str, object]:
    length = struct.unpack("<Q", buffer[:8])[0]
    header: dict[str, object] = json.loads(bytes(buffer[8 : 8 + length]))
    return header


LIES = {
    "unknown dtype": {"dtype": "F13"},
    "not whole": {"shape": [2.0, 3]},
    "negative": {"shape": [-2, -3]},
    "too large": {"shape": [2**40, 2**40]},
    "overlap": {"data_offsets": [8, 32]},
    "reversed": {"data_offsets": [24, 0]},
    "past the end": {"data_offsets": [0, 10**12], "shape": [25 * 10**10]},
    "wrong kinds": {"shape": "23", "data_offsets": None},
    "nested": {"shape": [[2], 3]},
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_tables_are_refused(lie: str) -> None:
    buffer = wire.encode(sample())
    header = header_of(buffer)
    header["a"] = dict(header["a"]) | LIES[lie]  # type: ignore[call-overload]
    data = bytes(buffer[-29:])
    with pytest.raises(WireError):
        wire.decode(resealed(json.dumps(header, separators=(",", ":")).encode(), data))


def layers() -> Parcel:
    """Neighbours of one shape, with another between them, an empty pair and a scalar pair."""
    rows = {f"k{n}": torch.full((2, 3), float(n)) for n in range(3)} | {"odd": torch.ones(4)}
    rows |= {f"v{n}": torch.full((2, 3), 10.0 + n) for n in range(2)} | {"e0": torch.zeros(0, 2), "e1": torch.zeros(0, 2)}
    return parcel(rows | {"s0": torch.tensor(7.0), "s1": torch.tensor(8.0)})


def test_neighbours_of_one_shape_are_a_stack_to_any_reader() -> None:
    buffer = wire.encode(layers())
    assert len(buffer) == wire.num_bytes(layers())
    back = wire.decode(buffer).tensors
    assert list(back) == list(layers().tensors)
    assert all(torch.equal(back[name], t) and back[name].shape == t.shape for name, t in layers().tensors.items())
    metadata: Any = header_of(buffer)["__metadata__"]
    assert json.loads(metadata["stacks"]) == [["k0", "k1", "k2"], ["v0", "v1"], ["e0", "e1"], ["s0", "s1"]]
    assert safetensors_load(bytes(buffer))["k0"].shape == (3, 2, 3)


STACKS = {
    "no list": {"k0": 3}, "one name": [["k0"]], "a number": [["k0", 1, "k2"]], "too few": [["k0", "k1"]], "too many": [["k0", "k1", "k2", "k3"]],
    "no tensor": [["x", "y", "z"]], "twice": [["k0", "k1", "k1"]], "another's": [["k0", "k1", "odd"]], "again": [["k0", "a", "b"]] * 2,
    "a stack of none": [["odd", "even"]],
}  # fmt: skip


@pytest.mark.parametrize("lie", STACKS)
def test_lying_stacks_are_refused(lie: str) -> None:
    buffer = wire.encode(layers())
    header: Any = header_of(buffer)
    data = bytes(buffer[8 + struct.unpack("<Q", buffer[:8])[0] :])
    said = json.loads(header["__metadata__"]["stacks"])
    wire.decode(resealed(json.dumps(header, separators=(",", ":")).encode(), data))
    rest = said[1:] if isinstance(STACKS[lie], list) else None
    header["__metadata__"]["stacks"] = json.dumps(STACKS[lie] if rest is None else [*STACKS[lie], *rest])
    with pytest.raises(WireError):
        wire.decode(resealed(json.dumps(header, separators=(",", ":")).encode(), data))


def test_honest_resealing_is_accepted() -> None:
    """The lies above are refused for the lie, not for the sealing."""
    buffer = wire.encode(sample())
    header = json.dumps(header_of(buffer), separators=(",", ":")).encode()
    assert torch.equal(wire.decode(resealed(header, bytes(buffer[-29:]))).tensors["a"], sample().tensors["a"])


@pytest.mark.parametrize(
    "card", ["[]", "{}", '{"kind": 1}', "not json", "[" * 100_000, '{"kind":"raw","sender":{"x":1},"body":{},"decision":null}']
)
def test_lying_cards_are_refused(card: str) -> None:
    header = {"__metadata__": {"digest": "0" * 32, "format": "avpbench", "version": "2", "card": card, "stacks": "[]"}}
    with pytest.raises(WireError):
        wire.decode(resealed(json.dumps(header, separators=(",", ":")).encode()))


@pytest.mark.parametrize("metadata", [{"format": "avp"}, {"version": "1"}])
def test_other_formats_and_versions_are_named(metadata: dict[str, str]) -> None:
    header = header_of(wire.encode(parcel({})))
    header["__metadata__"] = dict(header["__metadata__"]) | metadata  # type: ignore[call-overload]
    with pytest.raises(WireError, match="wanted avpbench 2"):
        wire.decode(resealed(json.dumps(header, separators=(",", ":")).encode()))


def test_ten_thousand_mutations_are_refused_without_large_allocations() -> None:
    """Half of them are sealed again with a right digest, so that what lies behind the digest is tried as well."""
    good = bytes(wire.encode(sample()))
    rng = random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = accepted = 0
    for k in range(20_000):
        bad = mutated(good, rng) if k % 2 else resealed(*lying(good, rng))
        if bad == good:
            continue
        try:
            wire.decode(bad)
            accepted += 1
        except WireError:
            refused += 1
    assert refused > 15_000
    assert accepted < 4_000  # sealed again after a change that is not a lie: a name, a word on the card
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def lying(good: bytes, rng: random.Random) -> tuple[bytes, bytes]:
    """The header with a few characters changed, and the data."""
    length = struct.unpack("<Q", good[:8])[0]
    header, data = bytearray(good[8 : 8 + length].rstrip()), good[8 + length :]
    first = wire._DIGEST_AT.stop - 8
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(first, len(header))
        kind = rng.randrange(4)
        if kind == 0:
            header[at] = rng.choice(b'0123456789-[]{}",:eE.nulltrue')
        elif kind == 1:
            header[at:at] = rng.choice([b"9" * 20, b"-1", b"null", b"[]", b"{}", b"1e9", b"true", b"4611686018427387904"])
        elif kind == 2:
            del header[at : at + rng.randrange(1, 6)]
        else:
            data = data[: rng.randrange(len(data) + 1)]
    return bytes(header), data


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**63], [0, -1], [2**31, 2**31, 0]])
def test_shapes_that_overflow_are_refused(shape: list[int]) -> None:
    header = header_of(wire.encode(parcel({"a": torch.zeros(0)})))
    header["a"] = dict(header["a"]) | {"shape": shape}  # type: ignore[call-overload]
    with pytest.raises(WireError):
        wire.decode(resealed(json.dumps(header, separators=(",", ":")).encode()))


@pytest.mark.parametrize("more", [{"shape": [2] * 100_000}, {"shape": [2**48] * 8}, {"dtype": "x" * 10**6}, {"shape": ["9" * 10**6]}])
def test_a_hostile_header_costs_neither_time_nor_a_long_message(more: dict[str, object]) -> None:
    header = header_of(wire.encode(parcel({"a": torch.zeros(2)})))
    header["a"] = dict(header["a"]) | more  # type: ignore[call-overload]
    sealed = resealed(json.dumps(header, separators=(",", ":")).encode())
    began = time.process_time()
    with pytest.raises(WireError) as refused:
        wire.decode(sealed)
    assert time.process_time() - began < 1  # a product of all those would take minutes
    assert len(str(refused.value)) < 700


def mutated(good: bytes, rng: random.Random) -> bytes:
    bad = bytearray(good)
    kind = rng.randrange(6)
    if kind == 0:
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del bad[rng.randrange(len(bad)) :]
    elif kind == 2:
        bad += rng.randbytes(rng.randrange(1, 50))
    elif kind == 3:
        bad[:8] = struct.pack("<Q", rng.choice([0, 1, 2**16, 2**31, 2**63, 2**64 - 1]))
    elif kind == 4:
        at = rng.randrange(len(bad))
        bad[at : at + rng.randrange(1, 20)] = rng.randbytes(rng.randrange(1, 20))
    else:
        bad = bytearray(rng.randbytes(rng.randrange(200)))
    return bytes(bad)


def test_a_header_of_empty_lists_is_refused_before_it_is_read() -> None:
    """A list takes twenty times the memory of its two characters."""
    body = {"turns": [[] for _ in range(100_000)]}
    data = bytearray(wire.encode(Parcel(CacheCard("text", SPEC, body), {})))
    tracemalloc.start()
    with pytest.raises(WireError, match="100008 lists and objects; at most 16384"):
        wire.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    tracemalloc.stop()
