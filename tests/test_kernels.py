"""Compiled kernels give the eager path's bits, or are left out."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from avpbench.codecs import kernels
from avpbench.codecs.affine import Affine

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
    def compiled(function: object) -> object:
        def wrong(*given: object) -> Tensor:
            if broken == "raises":
                raise RuntimeError("Python.h is missing")
            return torch.zeros(64, 4, dtype=torch.float16)

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
