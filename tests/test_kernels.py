"""Compiled kernels give the eager path's bits, or are left out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from avpbench.codecs import coded, kernels
from avpbench.codecs.affine import Affine
from avpbench.codecs.bias import Biases, Rope, RowBias
from avpbench.codecs.levels import NATIVE, Levels
from avpbench.core import ModelSpec

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler at hand")


def hard_values(dim: int) -> Tensor:
    """Bfloat16 heads of all kinds: ordinary, constant, zero, huge, tiny, with outliers, and on the grid's own ties."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 40, dim, generator=generator)
    x[0, 0, 0], x[0, 0, 1], x[0, 0, 2], x[0, 0, 3] = 3.0, 0.0, 3e38, 1e-30
    x[0, 1] *= torch.tensor([1.0, 300.0])[torch.randint(2, (40, dim), generator=generator)]
    x[1] = torch.randint(-8, 9, (2, 40, dim), generator=generator) / 2
    return x.bfloat16()


@pytest.mark.parametrize(("dim", "group", "width"), [(128, 64, 4), (64, 64, 2), (128, 32, 8), (64, 128, 4)])
def test_the_same_bits_as_the_eager_path(dim: int, group: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, codec = hard_values(dim), Affine(group)
    assert not kernels.usable(x, group, width), "too few values to compile for"
    eager = codec.encode(x, width, "")
    wanted = codec.decode(eager, width, "", dim).bfloat16()
    errors = codec.errors(x[1:], [2, width], "")
    monkeypatch.setattr(kernels, "_LEAST", 1)
    assert kernels.usable(x, group, width)
    made = codec.encode(x, width, "")
    assert {name: t.dtype for name, t in made.items()} == {name: t.dtype for name, t in eager.items()}
    assert all(torch.equal(made[name], t) for name, t in eager.items())
    out = torch.empty_like(x)
    codec.decode_into(out, eager, width, "")
    assert torch.equal(out, wanted)
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(codec.errors(x[1:], [2, width], ""), errors, strict=True))


@pytest.mark.parametrize(("dim", "group", "width"), [(128, 64, 4), (64, 64, 2)])
def test_the_same_bits_less_a_bias(dim: int, group: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's turned bias is taken out and put back within the kernels, as the eager path does in steps."""
    codec, generator = Affine(group), torch.Generator().manual_seed(1)
    cos, sin = torch.randn(2, 40, dim, generator=generator)
    bias = RowBias(50 * torch.randn(2, dim, generator=generator), Rope(cos, sin))
    x = (hard_values(dim)[2:3].float() + bias.values_HTD).bfloat16()
    eager = codec.encode_without(x, bias, width, "")
    assert not torch.equal(eager["codes"], codec.encode(x, width, "")["codes"])
    wanted = torch.empty_like(x)
    codec.decode_into(wanted, eager, width, "", bias)
    assert float((wanted - x).abs().max()) < float((x.float() - bias.values_HTD).abs().max()) / (2**width - 1) + 1
    errors = codec.errors(x, [2, width], "", bias)
    monkeypatch.setattr(kernels, "_LEAST", 1)
    assert kernels.usable(x, group, width, biased=True)
    made = codec.encode_without(x, bias, width, "")
    assert all(torch.equal(made[name], t) for name, t in eager.items())
    out = torch.empty_like(x)
    codec.decode_into(out, eager, width, "", bias)
    assert torch.equal(out, wanted)
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(codec.errors(x, [2, width], "", bias), errors, strict=True))


@pytest.mark.parametrize("chosen", [torch.arange(40), torch.arange(0, 40, 3)])
def test_a_coded_cache_with_biases_is_the_same_either_way(chosen: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with and without a bias, all tokens of one level and some of them: compiled one by one, eager in one stack."""
    spec = ModelSpec("m", "0", "0", "qwen2", 2, 2, 64, "{}", "bfloat16")
    table, generator = Levels(Affine(64), spec), torch.Generator().manual_seed(2)
    rows = [torch.randn(2, 40, 64, generator=generator).bfloat16() for _ in range(4)]
    biases = Biases(Rope(*torch.randn(2, 40, 64, generator=generator)), {0: 20 * torch.randn(2, 64, generator=generator)})
    rows[0] = (rows[0].float() + biases[0].values_HTD).bfloat16()
    levels = torch.full((40,), NATIVE, dtype=torch.uint8)
    levels[chosen] = 4
    eager = coded.encode(rows, levels, table, biases)
    wanted = coded.decode(eager, levels, table, torch.device("cpu"), biases)
    assert float((wanted[0] - rows[0]).abs().max()) < 1
    monkeypatch.setattr(kernels, "_LEAST", 1)
    monkeypatch.setattr(coded, "_CHUNK", 1)
    made = coded.encode(rows, levels, table, biases)
    assert all(torch.equal(made[name], t) for name, t in eager.items())
    assert torch.equal(coded.decode(made, levels, table, torch.device("cpu"), biases), wanted)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 2, 5, 33), torch.bfloat16), ((1, 2, 5, 64), torch.float32), ((1, 2, 5, 24), torch.bfloat16)]
)
def test_other_shapes_and_dtypes_go_without(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_LEAST", 1)
    assert not kernels.usable(torch.zeros(shape, dtype=dtype), 16, 2)


@pytest.mark.parametrize("broken", ["bits", "raises", "no compiler"])
def test_a_kernel_that_does_not_work_here_is_left_out(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*given: Any) -> Any:
            if broken == "raises":
                raise RuntimeError("Python.h is missing")
            found: Any = function(*given)
            return found + 1 if function is kernels._words else found

        return wrong

    monkeypatch.setattr(kernels, "_compiled", compiled)
    if broken == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    kernels._work.cache_clear()
    try:
        assert kernels._work(128, 64, 4) is False
    finally:
        kernels._work.cache_clear()
    said = {"bits": "other bits", "raises": "does not work here (RuntimeError)", "no compiler": ""}[broken]
    assert said in caplog.text
