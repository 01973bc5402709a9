"""A parcel as it arrives: the same as the whole, whatever the pieces; refused as early as it can be known to be wrong."""

from __future__ import annotations

import random
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wire import bits, mutated, parcel, sample

from avpbench import wire
from avpbench.errors import WireError
from avpbench.header import MAX_BYTES


def layered(layers: int = 4) -> dict[str, torch.Tensor]:
    """What `raw` hands over, in its order."""
    halves = [(f"{half}.{k}", torch.randn(2, 16, 8)) for k in range(layers) for half in ("keys", "values")]
    return {"token_ids": torch.arange(16, dtype=torch.int32), **dict(halves)}


def fed(buffer: memoryview | bytes, step: int, limit: int | None = None) -> wire.Decoder:
    decoder, view = wire.Decoder(limit), memoryview(buffer)
    for at in range(0, len(view), step):
        decoder.feed(view[at : at + step])
    return decoder


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=40))
def test_any_pieces_give_the_parcel(sizes: list[int]) -> None:
    sent = parcel(layered() | {"empty": torch.zeros(0, 3)}, text="é")
    buffer = wire.encode(sent)
    decoder, at = wire.Decoder(), 0
    while not decoder.done:
        size = sizes[at % len(sizes)]
        decoder.feed(buffer[at : at + size])
        at += size
    back = decoder.parcel()
    assert back.card.body == sent.card.body
    assert back.tensors.keys() == sent.tensors.keys()
    assert all(bits(back.tensors[name]) == bits(t) for name, t in sent.tensors.items())
    assert decoder.num_bytes == len(buffer)


def test_layers_are_decoded_before_the_last_piece_arrives() -> None:
    """What overlaps: the first layer is there, with its own bytes, while most of the parcel has not arrived."""
    sent = parcel(layered())
    buffer = wire.encode(sent)
    decoder = wire.Decoder()
    pieces = [buffer[at : at + 1024] for at in range(0, len(buffer), 1024)]
    whole = [decoder.feed(piece) for piece in pieces]
    assert [name for names in whole for name in names] == list(sent.tensors)
    first = next(k for k, names in enumerate(whole) if "values.0" in names)
    assert first < len(pieces) / 2
    assert whole[-1] == ["values.3"]


def test_a_tensor_is_whole_with_its_last_byte_and_not_before() -> None:
    buffer = wire.encode(parcel({"a": torch.randn(8), "b": torch.randn(8)}))
    decoder = wire.Decoder()
    assert decoder.feed(buffer[:-33]) == []
    assert decoder.feed(buffer[-33:-32]) == ["a"]
    assert decoder.feed(buffer[-32:]) == ["b"]


def test_nothing_comes_out_before_the_digest_was_compared() -> None:
    buffer = bytearray(wire.encode(sample()))
    with pytest.raises(WireError, match=f"truncated: {len(buffer) - 1} of {len(buffer)} bytes"):
        fed(buffer[:-1], 100).parcel()
    with pytest.raises(WireError, match="truncated: 5 of unknown"):
        fed(buffer[:5], 100).parcel()
    buffer[-1] ^= 1
    decoder = fed(buffer, 100)
    assert decoder.done
    with pytest.raises(WireError, match="digest"):
        decoder.parcel()


def test_an_impossible_header_is_refused_at_its_eighth_byte() -> None:
    for length in (0, 3, MAX_BYTES + 1, 2**63):
        decoder = wire.Decoder()
        decoder.feed(struct.pack("<Q", length)[:7])
        with pytest.raises(WireError, match=f"header claims {length} bytes"):
            decoder.feed(struct.pack("<Q", length)[7:])


def test_the_limit_holds_before_memory_is_taken() -> None:
    buffer = wire.encode(parcel({"a": torch.randn(1000)}))
    header = 8 + struct.unpack("<Q", buffer[:8])[0]
    fed(buffer, 64, len(buffer)).parcel()
    decoder = wire.Decoder(len(buffer) - 1)
    decoder.feed(buffer[: header - 1])
    with pytest.raises(WireError, match="exceeds the limit"):
        decoder.feed(buffer[header - 1 : header])


def test_a_stream_that_goes_on_is_refused() -> None:
    buffer = wire.encode(sample())
    decoder = fed(buffer, 1000)
    with pytest.raises(WireError, match="goes on after"):
        decoder.feed(b"\0")
    with pytest.raises(WireError, match="goes on after"):
        fed(bytes(buffer) + b"\0", len(buffer) + 1)


def test_mutated_streams_are_refused() -> None:
    good, rng = bytes(wire.encode(sample())), random.Random(1)
    for _ in range(5_000):
        bad = mutated(good, rng)
        if bad == good:
            continue
        with pytest.raises(WireError):
            fed(bad, rng.choice([1, 7, 64, 1000]) if len(bad) < 400 else 200, 2**20).parcel()


def test_thousands_of_empty_tensors_are_refused_before_they_are_made() -> None:
    """A small header may not become a large heap."""
    with pytest.raises(WireError, match="a parcel of 30000 tensors; at most"):
        wire.decode(wire.encode(parcel({f"{k:x}": torch.zeros(0) for k in range(30_000)})))
