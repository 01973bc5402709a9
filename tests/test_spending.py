"""Plans: what is refused, and how the one allocator spends a budget."""

from __future__ import annotations

import itertools

import pytest
import torch
from quantizing import asked, captured, plan, strategy
from torch import Tensor

from avpbench.codecs.levels import NATIVE
from avpbench.controllers.controller import Controller, require_plan, require_score
from avpbench.controllers.request import Request
from avpbench.controllers.spend import assigned, spend, weights
from avpbench.controllers.uniform import Uniform, strided
from avpbench.core import AgentState
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError, ControllerError
from avpbench.strategies.quantized import Quantized


@pytest.fixture(scope="module")
def whole(tiny: Engine) -> AgentState:
    return captured(tiny)


def test_uniform_is_one_level_where_the_budget_is_its_cost(whole: AgentState) -> None:
    request = asked(whole)
    for level in (2, 4, 8):
        assert plan(Uniform(), request, request.table.num_bytes(level, 1) * len(request.fresh_N)).unique().tolist() == [level]


@pytest.mark.parametrize("count", [0, 1, 3, 7, 10])
def test_strides_are_even(count: int) -> None:
    places = strided(10, count).nonzero()[:, 0]
    assert len(places) == count
    gaps = places.diff().tolist()
    assert all(10 // count <= gap <= -(-10 // count) for gap in gaps)


def test_the_budget_goes_where_the_score_is(whole: AgentState) -> None:
    request = asked(whole)
    score = torch.full((len(request.fresh_N),), 0.01)
    score[5:15] = 100.0
    levels = spend(request, score, request.table.num_bytes(2, 1) * len(request.fresh_N) * 2)
    others = torch.cat([levels[:5], levels[15:]])
    assert int(levels[5:15].min()) >= int(others.max())
    assert float(levels[5:15].float().mean()) > 1.5 * float(others.float().mean())


@pytest.mark.parametrize("budget", [10, 20, 30, 40, 50, 60])
def test_spending_is_the_best_there_is_on_a_small_case(budget: int) -> None:
    """Against every assignment of levels, where the greedy hull order meets the budget exactly."""
    loss = torch.tensor([[9.0, 4.0, 1.0], [6.0, 2.5, 0.5], [3.0, 1.0, 0.2]])
    costs, free = torch.tensor([[0, 10, 20]] * 3), torch.ones(3, dtype=torch.bool)
    every = [torch.tensor(ks) for ks in itertools.product(range(3), repeat=3)]
    best = min(float(loss.gather(1, ks[:, None]).sum()) for ks in every if int(costs.gather(1, ks[:, None]).sum()) <= budget)
    places = assigned(loss, costs, free, budget)
    assert float(loss.gather(1, places[:, None]).sum()) == pytest.approx(best)


def test_what_fits_no_more_is_raised_by_less() -> None:
    """The hull's next raise is dear; what is left goes to a cheaper one."""
    loss, costs = torch.tensor([[9.0, 0.0], [4.0, 3.0]]), torch.tensor([[0, 100], [0, 10]])
    assert assigned(loss, costs, torch.ones(2, dtype=torch.bool), 50).tolist() == [0, 1]
    assert assigned(loss, costs, torch.tensor([False, True]), 500).tolist() == [0, 1]


def test_only_the_order_of_scores_counts() -> None:
    """Equal scores weigh the same, the spread is the rule's, and a ranking turned round has the weights turned round."""
    score = torch.tensor([3.0, -1.0, 3.0, 0.5, 100.0])
    found = weights(score, 1.5)
    assert torch.equal(found, weights(score.exp() * 1e-20, 1.5))
    assert found[0] == found[2]
    assert torch.allclose(found * weights(-score, 1.5), torch.ones(5))
    assert float(weights(torch.randn(4000), 0.7).log().std()) == pytest.approx(0.7, rel=0.01)
    assert weights(torch.ones(7), 1.5).tolist() == [1.0] * 7


class Wrong(Controller):
    """Answers with what it was given."""

    def __init__(self, score: object = None, levels: object = None) -> None:
        self._score, self._levels = score, levels

    def score(self, request: Request) -> Tensor | None:
        return self._score  # type: ignore[return-value]

    def allocate(self, request: Request, score_N: Tensor | None, budget_bytes: int) -> Tensor:
        return self._levels if self._levels is not None else super().allocate(request, score_N, budget_bytes)  # type: ignore[return-value]


def levels_like(n: int, value: int = 2, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.full((n,), value, dtype=dtype)


@pytest.mark.parametrize(
    ("score", "levels", "message"),
    [
        (lambda n: torch.full((n,), torch.nan), None, "gave .* scores that are not finite"),
        (lambda n: torch.cat([torch.ones(n - 1), torch.tensor([torch.inf])]), None, "gave 1 of .* that are not finite"),
        (lambda n: torch.ones(n + 1), None, r"wanted floats of shape \[\d+\]"),
        (lambda n: torch.ones(n, dtype=torch.long), None, "torch.int64.*wanted floats"),
        (lambda n: [1.0] * n, None, "scored list"),
        (lambda n: torch.rand(n).to_sparse(), None, r"scored torch.float32 .* \(sparse\)"),
        (lambda n: torch.rand(n, device="meta"), None, "on meta; wanted floats"),
        (None, lambda n: levels_like(n).to_sparse(), r"planned torch.uint8 .* \(sparse\)"),
        (None, lambda n: levels_like(n - 1), "wanted uint8 levels of shape"),
        (None, lambda n: levels_like(n, dtype=torch.long), "torch.int64.*wanted uint8"),
        (None, lambda n: levels_like(n, 3), r"level 3; the codec has \[0, 2, 4, 8, 255\]"),
        (None, lambda n: levels_like(n, NATIVE), "bytes of codes; the budget leaves"),
        (None, lambda n: levels_like(n), "planned protected tokens coarser; they stay native"),
        (None, None, "neither scores nor allocates"),
    ],
)
def test_what_is_not_a_plan_is_refused(whole: AgentState, tiny: Engine, score: object, levels: object, message: str) -> None:
    made = strategy("strategy/controller=uniform")
    n = len(whole.cache.positions_T)
    made.controller = Wrong(score(n) if callable(score) else None, levels(n) if callable(levels) else None)
    with pytest.raises(ControllerError, match=message):
        made.export(whole, tiny, tiny.spec)
    with pytest.raises(ControllerError, match=message):  # the contract's plan says the same
        plan(made.controller, asked(whole, protect=1), 9000)


def test_scores_of_any_size_keep_their_order(whole: AgentState) -> None:
    """Beyond float32's range, and below it."""
    request = asked(whole)
    few = torch.rand(len(request.fresh_N), dtype=torch.float64)
    plans = [Wrong().allocate(request, require_score("x", few * size, len(few)), 9000) for size in (1.0, 1e300, 1e-300)]
    assert torch.equal(plans[0], plans[1])
    assert torch.equal(plans[0], plans[2])


@pytest.mark.parametrize("needs", [frozenset({"widow"}), ["window"], "window"])
def test_what_cannot_be_captured_is_not_needed(needs: object) -> None:
    asks, one = Wrong(), strategy()
    asks.needs = needs  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"wanted a frozenset of .*window"):
        Quantized(asks, one.codec, 4, sinks=0, recent=0, requantize=False, key_bias=True, keys_step=0, layer_steps="even", spread=1)


def test_blocks_have_one_level(whole: AgentState) -> None:
    request = asked(whole, "kivi")
    with pytest.raises(ControllerError, match="several levels within a block of 32"):
        require_plan("x", torch.tensor([2, 4] * 200, dtype=torch.uint8)[: len(request.fresh_N)], request, 10**9)
