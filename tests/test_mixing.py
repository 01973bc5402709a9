"""From hidden states to mixed input embeddings: exact pairs, bounded error, no matrix copied."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avpbench.engine.mixing import in_blocks, mixture, top_pairs


def full_mixture(hidden_NE: torch.Tensor, head_VE: torch.Tensor, table_VE: torch.Tensor, temperature: float) -> torch.Tensor:
    return (hidden_NE @ head_VE.T / temperature).double().softmax(-1) @ table_VE.double()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_error_of_k_pairs_lies_within_a_bound_that_falls_with_k(temperature: float) -> None:
    """e_k - e = (1 - m)(e_k - rest), so |e_k - e| <= 2 (1 - m) max|E|; scaling both to one norm at most doubles that, relatively."""
    torch.manual_seed(0)
    head, table, states = torch.randn(400, 24), torch.randn(400, 16), torch.randn(300, 24)
    wanted = full_mixture(states, head, table, temperature)
    length = torch.linalg.vector_norm(wanted, dim=-1)
    wanted = wanted / length[:, None]
    bounds, errors = [], []
    for k in (1, 2, 8, 32, 128, 400):
        pairs = top_pairs(states, lambda rows: rows @ head.T, 400, None, k, temperature)
        soft = mixture(pairs.columns_NK, pairs.probs_NK, table, torch.tensor(1.0)).double()
        error = torch.linalg.vector_norm(soft - wanted, dim=-1)
        bound = 4 * (1 - pairs.mass_N.double()).clamp(min=0) * torch.linalg.vector_norm(table, dim=-1).max() / length + 1e-5
        assert bool((error <= bound).all())
        bounds.append(float(bound.mean()))
        errors.append(float(error.mean()))
    assert bounds == sorted(bounds, reverse=True)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_pairs_by_hand_and_padding_masked() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0, 99.0]])  # the last one is padding
    pairs = top_pairs(logits, lambda rows: rows, 4, None, 2, 2.0)
    p = (logits[0, :4] / 2).softmax(-1)
    assert pairs.columns_NK.tolist() == [[1, 2]]
    assert pairs.probs_NK[0].tolist() == pytest.approx((p[[1, 2]] / p[[1, 2]].sum()).tolist())
    assert float(pairs.mass_N) == pytest.approx(float(p[1] + p[2]))
    assert float(pairs.entropy_N) == pytest.approx(float(-(p * p.log()).sum()))
    some = top_pairs(logits, lambda rows: rows, 4, torch.tensor([0, 3]), 2, 2.0)
    assert some.columns_NK.tolist() == [[0, 1]]
    assert float(some.mass_N) == pytest.approx(float(p[0] + p[3]))


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given:
            self.elements = max(self.elements, out.numel())
        return out


@pytest.fixture(params=["slow", "fast"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A CPU with and one without products in bfloat16 and float16."""
    have = dict.fromkeys(("avx512_bf16", "amx_fp16"), request.param == "fast")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: have, raising=False)
    return str(request.param)


def test_a_head_is_widened_where_its_products_are_slow(products: str) -> None:
    heads = {dtype: torch.nn.Linear(8, 16).to(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)}
    as_it_is = {dtype for dtype, head in heads.items() if in_blocks(head) is head}
    assert as_it_is == (set(heads) if products == "fast" else {torch.float32})


@pytest.mark.usefixtures("products")
def test_no_matrix_is_copied_or_converted() -> None:
    head, table = torch.nn.Linear(64, 3000, bias=False).bfloat16(), torch.randn(3000, 64).bfloat16()
    with torch.inference_mode(), Largest() as largest:
        pairs = top_pairs(torch.randn(20, 64).bfloat16(), in_blocks(head), 3000, None, 16, 1.0)
        mixture(pairs.columns_NK, pairs.probs_NK, table, torch.tensor(1.0))
        assert largest.elements <= 1024 * 64 < 64 * 3000
        table.float()
        assert largest.elements == 64 * 3000  # it would have been seen


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("count", [1, 2, 130])
@pytest.mark.usefixtures("products")
def test_logits_of_many_states_are_the_heads_own_up_to_its_rounding(dtype: torch.dtype, bias: bool, count: int) -> None:
    torch.manual_seed(0)
    head, states = torch.nn.Linear(64, 2500, bias=bias).to(dtype), torch.randn(count, 64).to(dtype)
    with torch.inference_mode():
        exact = torch.nn.functional.linear(states.double(), head.weight.double(), head.bias.double() if bias else None)
        got, own = in_blocks(head)(states).double(), head(states).double()
    assert float((got - exact).abs().max()) <= float((own - exact).abs().max()) + 1e-5
