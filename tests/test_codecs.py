"""The contract of every codec: each YAML in conf/strategy/codec is tested because it exists."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import codecs
from torch import Tensor

from avpbench.build import build
from avpbench.codecs import coded
from avpbench.codecs.codec import Codec, blocks
from avpbench.codecs.lloydmax import codebook
from avpbench.codecs.packing import num_words, pack, unpack
from avpbench.codecs.registry import codec_named, describe
from avpbench.codecs.rotation import hadamard, rotated, signs
from avpbench.config import compose
from avpbench.core import ModelSpec
from avpbench.errors import WireError

NAMES = codecs()
CPU = torch.device("cpu")
SHAPES = [(2, 4, 1, 32), (1, 1, 33, 128), (3, 2, 70, 33), (2, 1, 64, 80)]  # rows, kv heads (MQA: 1), tokens, head size


@pytest.fixture(params=NAMES)
def codec(request: pytest.FixtureRequest) -> Codec:
    built: Codec = build(compose(["strategy=quantized", f"strategy/codec={request.param}"]).strategy.codec)
    return built


def name_of(codec: Codec) -> str:
    return type(codec).__module__.rsplit(".", 1)[-1]


def treatments(codec: Codec) -> set[str]:
    return {codec.treatment("keys"), codec.treatment("values")}


def round_trip(codec: Codec, x: Tensor, width: int, treatment: str) -> Tensor:
    return codec.decode(codec.encode(x, width, treatment), width, treatment, x.shape[-1])


def spec(heads: int = 2, head_dim: int = 32, layers: int = 3, dtype: str = "float32") -> ModelSpec:
    return ModelSpec("m", "0", "0", "qwen2", layers, heads, head_dim, "{}", dtype)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [1, 7, 32, 33])
def test_codes_are_packed_without_loss_or_waste(width: int, count: int) -> None:
    codes = torch.randint(2**width, (2, 5, count), dtype=torch.uint8)
    packed = pack(codes, width)
    assert packed.shape[-1] == num_words(count, width) <= -(-count * width // 32) + 1
    assert torch.equal(unpack(packed, width, count), codes)


@pytest.mark.parametrize("sigma", [1.0, 3e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_round_trip_stays_within_the_codecs_bound(codec: Codec, shape: tuple[int, ...], sigma: float) -> None:
    """Half a step where codes are even (of the rotated values for hadamard), 1/16 for fp8, half a cell or the cut for lloydmax."""
    torch.manual_seed(0)
    x = sigma * torch.randn(shape) * torch.tensor([1.0, 30.0])[torch.randint(2, shape)]
    for width in codec.widths:
        for treatment in treatments(codec):
            back = round_trip(codec, x, width, treatment)
            name, axis, seen = name_of(codec), 2 if treatment == "channel" else -1, x
            if name in ("hadamard", "lloydmax"):
                flips = signs(shape[-1]) if name == "lloydmax" else 1.0
                seen, back = (rotated(t * flips, 128 if name == "lloydmax" else 64) for t in (x, back))
            most = {"fp8": 448.0, "lloydmax": float(codebook(width)[-1])}.get(name, 2.0**width)  # what a scale is multiplied by
            slack = seen.abs().amax(axis, keepdim=True) / 1000 + most * 2**-25  # what float16 costs scales and offsets, tiny ones too
            if name == "fp8":
                limit = seen.abs() / 16 + slack
            elif name == "lloydmax":
                book, scale = codebook(width), seen.square().mean(-1, keepdim=True).sqrt()
                limit = scale * torch.maximum(book.diff().max() / 2, seen.abs() / scale - book[-1]) + slack
            else:
                limit = (seen.amax(axis, keepdim=True) - seen.amin(axis, keepdim=True)) / (2 * (2**width - 1)) + slack
            assert bool(((back - seen).abs() <= limit).all()), (name, width, treatment)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_affine_codes_of_one_level_are_fixed_points(width: int) -> None:
    """Coded again, what was decoded has the same codes: an ablation that codes anew moves nothing at one level."""
    codec = codec_named({"name": "affine", "group": 64})
    once = round_trip(codec, torch.randn(2, 2, 50, 32), width, "")
    again = round_trip(codec, once, width, "")
    assert float((again - once).abs().max()) < 2e-3 * float(once.abs().max())


def test_more_bits_are_better(codec: Codec) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 2, 96, 64)
    for treatment in treatments(codec):
        errors = [float((round_trip(codec, x, w, treatment) - x).square().mean()) for w in codec.widths]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.015


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["zero", "constant", "huge", "tiny", "one outlier"])
def test_nothing_makes_nan(codec: Codec, kind: str, dtype: torch.dtype) -> None:
    x = torch.zeros(2, 2, 40, 32)
    if kind == "one outlier":
        x[0, 0, 0, 0] = 1e4
    elif kind != "zero":
        x += {"constant": 3.0, "huge": torch.finfo(dtype).max, "tiny": 1e-30}[kind]
    x = x.to(dtype)
    for width in codec.widths:
        for treatment in treatments(codec):
            back = round_trip(codec, x, width, treatment)
            assert bool(back.isfinite().all())
            if kind in ("zero", "tiny"):
                assert float(back.abs().max()) < 1e-6
            if kind == "constant" and name_of(codec) != "lloydmax":
                assert float((back - 3).abs().max()) <= 3 / 16
            assert all(bool(t.isfinite().all()) for t in codec.errors(x, [width], treatment)) or kind == "huge"


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_and_layout_are_what_is_said(codec: Codec, shape: tuple[int, ...]) -> None:
    rows, heads, tokens, dim = shape
    for width in codec.widths:
        for treatment in treatments(codec):
            made = codec.encode(torch.randn(shape), width, treatment)
            said = codec.layout(width, treatment, dim)
            assert made.keys() == said.keys()
            for name, t in made.items():
                along = len(blocks(tokens, codec.block)) if said[name].per_block else tokens
                assert (t.dtype, tuple(t.shape)) == (said[name].dtype, (rows, heads, along, said[name].last))
            per_row = sum(codec.num_bytes(width, treatment, n, dim) for n in blocks(tokens, codec.block))
            assert sum(t.numel() * t.element_size() for t in made.values()) == rows * heads * per_row


def test_codes_of_two_runs_join_to_those_of_both(codec: Codec) -> None:
    """What forwarding rests on: decoding joined codes gives each run's own values."""
    torch.manual_seed(3)
    a, b = torch.randn(2, 2, 37, 32), torch.randn(2, 2, 5, 32)
    for width in codec.widths:
        for treatment in treatments(codec):
            parts = [codec.encode(x, width, treatment) for x in (a, b)]
            joined = coded.join(*parts)
            both = codec.decode(joined, width, treatment, 32)
            apart = [codec.decode(part, width, treatment, 32) for part in parts]
            assert torch.equal(both, torch.cat(apart, dim=2))


def test_a_card_names_the_codec_and_finds_it(codec: Codec) -> None:
    described = describe(codec)
    again = codec_named(described)
    assert type(again) is type(codec)
    assert describe(again) == described


@pytest.mark.parametrize(
    "described",
    [
        {"name": "gzip"}, {"name": "os"}, {"name": "../affine", "group": 64}, {"name": "affine"}, {"name": "affine", "group": "64"},
        {"name": "affine", "group": 64, "more": 1}, {"name": ["affine"], "group": 64}, {"name": "codec"}, {},
    ],
)  # fmt: skip
def test_a_card_cannot_name_anything_else(described: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=r"card (names|gives) the codec"):
        codec_named(described)


@pytest.mark.parametrize("width", [3, 4])
def test_the_codebook_is_lloyd_and_max_s(width: int) -> None:
    """Every centroid is the mean of its cell, and the distortions are those of Max (1960), table 1."""
    book = codebook(width).double()
    assert torch.allclose(book, -book.flip(0), atol=1e-6)
    x = torch.linspace(-8, 8, 2_000_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)
    cell = torch.bucketize(x, (book[1:] + book[:-1]) / 2)
    means = torch.zeros_like(book).index_add_(0, cell, x * density) / torch.zeros_like(book).index_add_(0, cell, density)
    assert torch.allclose(means, book, atol=1e-4)
    distortion = float(((x - book[cell]).square() * density).sum() / density.sum())
    assert distortion == pytest.approx({3: 0.03454, 4: 0.009497}[width], rel=1e-3)


@pytest.mark.parametrize("dim", [1, 32, 33, 80, 128])
def test_rotations_are_orthogonal_and_their_own_inverse(dim: int) -> None:
    matrix = hadamard(dim, 64)
    assert torch.allclose(matrix @ matrix, torch.eye(dim), atol=1e-5)


def test_a_rotation_saves_int4_from_outliers() -> None:
    torch.manual_seed(5)
    x = torch.randn(1, 2, 50, 128)
    x[..., 7] *= 40
    plain, turned = (codec_named(d) for d in ({"name": "affine", "group": 128}, {"name": "hadamard", "group": 128, "rotation": 128}))
    error = [float((round_trip(c, x, 4, "") - x).square().mean()) for c in (plain, turned)]
    assert error[1] < error[0] / 4
