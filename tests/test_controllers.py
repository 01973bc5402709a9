"""The contract of every controller: each YAML in conf/strategy/controller is tested because it exists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import codecs, dummy, told
from torch import Tensor

from avpbench import wire
from avpbench.agents import Agent, Speak
from avpbench.build import build
from avpbench.codecs.levels import NATIVE, Levels
from avpbench.codecs.registry import codec_named, describe
from avpbench.config import CONF, compose
from avpbench.controllers.controller import Controller, plan_bytes, require_plan, require_score
from avpbench.controllers.inverse import Inverse
from avpbench.controllers.random import Random
from avpbench.controllers.request import Request
from avpbench.controllers.snapkv import SnapKV
from avpbench.controllers.spend import spend
from avpbench.controllers.uniform import Uniform, strided
from avpbench.controllers.zipcache import ZipCache
from avpbench.core import AgentState
from avpbench.engine.capture import CAPTURES
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import ControllerError
from avpbench.links.direct import Direct
from avpbench.probe import fingerprint
from avpbench.strategies.quantized import Quantized
from avpbench.strategies.raw import Raw

NAMES = sorted(p.stem for p in (CONF / "strategy" / "controller").glob("*.yaml"))
CODECS = codecs()
WORDS = "Tom has 12 apples. Sue has 3 more apples than Tom. Ben has twice as many as Sue. How many do they have together?"


def strategy(controller: str, *words: str) -> Quantized:
    built: Quantized = build(compose(["strategy=quantized", f"strategy/controller={controller}", *words]).strategy)
    return built


@pytest.fixture(params=NAMES)
def controller(request: pytest.FixtureRequest) -> Controller:
    return strategy(request.param).controller


@pytest.fixture(scope="module")
def state(tiny: Engine) -> AgentState:
    return captured(tiny)


def captured(engine: Engine) -> AgentState:
    """A sender with everything captured, its demand a made-up one."""
    agent = Agent(engine, Raw(), Direct())
    prompt = told(WORDS, "planner")
    job = Speak((Speech(24, generator("x")),), Sampling())
    state, _ = agent.act([agent.receive(None, prompt)], [prompt], job, needs=CAPTURES)[0]
    demand = torch.rand(len(state.token_ids), generator=torch.Generator().manual_seed(0))
    return replace(state, captured=replace(state.captured, demand_S=demand))


def asked(state: AgentState, codec: str = "affine", protect: int = 0) -> Request:
    built = build(compose(["strategy=quantized", f"strategy/codec={codec}"]).strategy.codec)
    table = Levels(built, state.spec)
    fresh = torch.arange(len(state.cache.positions_T))
    rows = [*state.cache.keys_HTD, *state.cache.values_HTD]
    return Request(state.token_ids, state.cache, state.captured, fresh, rows, table, fresh >= len(fresh) - protect)


def plan(controller: Controller, request: Request, budget: int) -> Tensor:
    score = controller.score(request)
    levels = controller.allocate(request, score, budget)
    require_plan(type(controller).__name__, levels, request, budget)
    return levels


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.55, 1.0])
def test_a_plan_is_within_the_budget_and_leaves_less_than_a_step(
    controller: Controller, state: AgentState, codec: str, share: float
) -> None:
    request = asked(state, codec, protect=1)
    budget = int(share * int(request.costs_BK[:, -1].sum()))
    levels = plan(controller, request, budget)
    first = request.sizes_B.cumsum(0) - request.sizes_B
    assert int(levels[first][-1]) == NATIVE
    left = budget - plan_bytes(levels, request)
    names = torch.tensor(request.table.names)
    places = (levels[first].long()[:, None] == names).long().argmax(1)
    here = request.costs_BK.gather(1, places[:, None])
    raises = torch.where(request.costs_BK > here, request.costs_BK - here, 10**12)
    if isinstance(controller, Uniform):  # it raises whole blocks to the next level only, evenly
        raises = raises[:-1][places[:-1] == places[:-1].min()]
    assert left < int(raises.min())


@pytest.fixture(scope="module")
def odd() -> Engine:
    """One kv head for three (MQA), of a size that no word and no group divides."""
    return dummy("qwen2", hidden_size=54, num_attention_heads=3, num_key_value_heads=1)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", NAMES)
def test_a_hand_over_is_the_same_each_time_and_changes_nothing(name: str, codec: str, odd: Engine) -> None:
    made = strategy(name, f"strategy/codec={codec}", "strategy.budget_bits=14")
    sender = captured(odd)
    before = fingerprint(sender.cache)
    parcel, again = (made.export(sender, odd, odd.spec) for _ in range(2))
    data = wire.encode(parcel)
    assert bytes(data) == bytes(wire.encode(again))
    assert fingerprint(sender.cache) == before
    assert len(data) <= made.most_bytes(sender, odd)
    cache = made.inject(wire.decode(data), odd).cache
    assert cache is not None
    kept = torch.isin(sender.cache.positions_T, cache.positions_T)
    for ours, theirs in zip(cache.keys_HTD + cache.values_HTD, sender.cache.keys_HTD + sender.cache.values_HTD, strict=True):
        assert float(torch.nn.functional.cosine_similarity(ours, theirs[:, kept], dim=-1).mean()) > 0.9


def test_the_same_request_has_the_same_plan_and_changes_nothing(controller: Controller, state: AgentState) -> None:
    before = fingerprint(state.cache)
    request = asked(state)
    first, second = (plan(controller, asked(state), request.table.num_bytes(4, 1) * len(request.fresh_N)) for _ in range(2))
    assert torch.equal(first, second)
    assert fingerprint(state.cache) == before


def test_a_ranking_is_finite_and_says_something(controller: Controller, state: AgentState) -> None:
    score = controller.score(asked(state))
    if score is None:
        return
    score = require_score(type(controller).__name__, score, len(state.cache.positions_T))
    assert len(score.unique()) > 5


def test_one_token_is_planned(controller: Controller, state: AgentState) -> None:
    request = asked(state)
    one = replace(
        request, fresh_N=request.fresh_N[-1:], rows=[row[:, -1:] for row in request.rows], protected_N=torch.zeros(1, dtype=torch.bool)
    )
    assert plan(controller, one, one.table.num_bytes(4, 1)).tolist() == [4]


@pytest.mark.parametrize(("value", "codec"), [(0.0, "affine"), (1.0, "hadamard"), (1e-30, "lloydmax"), (1e30, "affine")])
def test_caches_without_shape_are_planned(controller: Controller, state: AgentState, value: float, codec: str) -> None:
    """Constant, zero, tiny and huge caches: finite scores, a level for every token, the budget held."""
    half = tuple(torch.full_like(k, value) for k in state.cache.keys_HTD)
    request = asked(replace(state, cache=replace(state.cache, keys_HTD=half, values_HTD=half)), codec)
    budget = request.table.num_bytes(4, 1) * len(request.fresh_N) // 2
    score = controller.score(request)
    assert score is None or torch.isfinite(score).all()
    levels = plan(controller, request, budget)
    assert levels.shape == request.fresh_N.shape
    assert sum(request.table.num_bytes(level, 1) for level in levels.tolist()) <= budget


def test_uniform_is_one_level_where_the_budget_is_its_cost(state: AgentState) -> None:
    request = asked(state)
    for level in (2, 4, 8):
        assert plan(Uniform(), request, request.table.num_bytes(level, 1) * len(request.fresh_N)).unique().tolist() == [level]


@pytest.mark.parametrize("count", [0, 1, 3, 7, 10])
def test_strides_are_even(count: int) -> None:
    places = strided(10, count).nonzero()[:, 0]
    assert len(places) == count
    gaps = places.diff().tolist()
    assert all(10 // count <= gap <= -(-10 // count) for gap in gaps)


def test_random_deals_the_other_s_levels_and_every_seed_deals_otherwise(state: AgentState) -> None:
    request = asked(state, protect=3)
    budget = request.table.num_bytes(4, 1) * len(request.fresh_N)
    own = plan(SnapKV(5), request, budget)
    dealt = [plan(Random(SnapKV(5), seed), request, budget) for seed in range(8)]
    for levels in dealt:
        assert torch.equal(levels.sort().values, own.sort().values)
        assert levels[-3:].tolist() == [NATIVE] * 3
    assert len({tuple(levels.tolist()) for levels in dealt}) == 8


def test_inverse_turns_the_ranking(state: AgentState) -> None:
    request = asked(state)
    up, down = SnapKV(1).score(request), strategy("inverse", "strategy.controller.of.pool=1").controller.score(request)
    assert down is not None
    assert torch.allclose(up.sort().values, down.sort().values)
    assert int(up.argmax()) == int(down.argmin())
    ranks = [t.argsort().argsort().float() for t in (up, down)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) < -0.99


def test_the_budget_goes_where_the_score_is(state: AgentState) -> None:
    request = asked(state)
    score = torch.full((len(request.fresh_N),), 0.01)
    score[5:15] = 100.0
    levels = spend(request, score, request.table.num_bytes(2, 1) * len(request.fresh_N) * 2)
    others = torch.cat([levels[:5], levels[15:]])
    assert int(levels[5:15].min()) >= int(others.max())
    assert float(levels[5:15].float().mean()) > 1.5 * float(others.float().mean())


def test_spending_is_the_best_there_is_on_a_small_case() -> None:
    """Against every assignment of levels, where the greedy hull order meets the budget exactly."""
    import itertools

    loss = torch.tensor([[9.0, 4.0, 1.0], [6.0, 2.5, 0.5], [3.0, 1.0, 0.2]])
    costs = torch.tensor([[0, 10, 20]] * 3)

    from avpbench.controllers.spend import _fill, _raises

    for budget in (10, 20, 30, 40, 50, 60):
        best = min(
            sum(float(loss[b, k]) for b, k in enumerate(ks))
            for ks in itertools.product(range(3), repeat=3)
            if sum(int(costs[b, k]) for b, k in enumerate(ks)) <= budget
        )
        ratio, cost, block, target = _raises(loss, costs, torch.ones(3, dtype=torch.bool))
        order = torch.argsort(ratio, descending=True, stable=True)
        places = torch.zeros(3, dtype=torch.long)
        spent = 0
        for k in order.tolist():
            if spent + int(cost[k]) > budget:
                break
            spent += int(cost[k])
            places[block[k]] = max(int(places[block[k]]), int(target[k]))
        places = _fill(places, loss, costs, torch.ones(3, dtype=torch.bool), budget - spent)
        assert float(loss.gather(1, places[:, None]).sum()) == pytest.approx(best)


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
        (lambda n: torch.full((n,), torch.nan), None, "scores from nan"),
        (lambda n: -torch.ones(n), None, "scores from -1"),
        (lambda n: torch.ones(n + 1), None, r"wanted floats of shape \[\d+\]"),
        (lambda n: torch.ones(n, dtype=torch.long), None, "torch.int64.*wanted floats"),
        (lambda n: [1.0] * n, None, "scored list"),
        (None, lambda n: levels_like(n - 1), "wanted uint8 levels of shape"),
        (None, lambda n: levels_like(n, dtype=torch.long), "torch.int64.*wanted uint8"),
        (None, lambda n: levels_like(n, 3), r"level 3; the codec has \[0, 2, 4, 8, 255\]"),
        (None, lambda n: levels_like(n, NATIVE), "bytes of codes; the budget leaves"),
        (None, lambda n: levels_like(n), "planned protected tokens coarser; they stay native"),
        (None, None, "neither scores nor allocates"),
    ],
)
def test_what_is_not_a_plan_is_refused(state: AgentState, tiny: Engine, score: object, levels: object, message: str) -> None:
    made = strategy("uniform")
    n = len(state.cache.positions_T)
    made.controller = Wrong(score(n) if callable(score) else None, levels(n) if callable(levels) else None)
    with pytest.raises(ControllerError, match=message):
        made.export(state, tiny, tiny.spec)


def test_blocks_have_one_level(state: AgentState) -> None:
    request = asked(state, "kivi")
    with pytest.raises(ControllerError, match="several levels within a block of 32"):
        require_plan("x", torch.tensor([2, 4] * 200, dtype=torch.uint8)[: len(request.fresh_N)], request, 10**9)


def test_a_codec_is_found_by_its_card_only() -> None:
    assert describe(codec_named({"name": "affine", "group": 32})) == {"name": "affine", "group": 32}


def test_the_unit_of_a_score_changes_nothing(state: AgentState) -> None:
    request = asked(state, "affine")
    score_N = torch.rand(len(request.fresh_N), generator=torch.Generator().manual_seed(0)) + 0.01
    plan = spend(request, score_N, 2_000)
    for factor in (1e-35, 1e-20, 1e20, 3e38):
        assert torch.equal(spend(request, score_N * factor, 2_000), plan), factor


def test_zipcache_does_not_drop_what_no_probe_has_seen(state: AgentState, tiny: Engine) -> None:
    """The last words of a turn, behind the last probe."""
    request = asked(state)
    probes = request.captured.probes
    assert probes is not None
    unseen_N = request.cache.positions_T[request.fresh_N] > probes.positions_P.max()
    assert bool(unseen_N.any())
    score_N = ZipCache().score(request)
    assert bool((score_N[unseen_N] == score_N.max()).all())
    assert float(score_N[~unseen_N].min()) < float(score_N.max())


def test_a_ranking_that_there_is_not_cannot_be_turned(state: AgentState) -> None:
    with pytest.raises(ControllerError, match=r"inverse\(uniform\): uniform ranks no tokens"):
        Inverse(Uniform()).score(asked(state, "affine"))
