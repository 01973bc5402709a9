"""The contract of every controller: each YAML in conf/strategy/controller is tested because it exists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import codecs, dummy
from quantizing import asked, captured, plan, strategy, with_only

from avpbench import wire
from avpbench.codecs.levels import NATIVE
from avpbench.config import CONF
from avpbench.controllers.controller import Controller, plan_bytes, scored
from avpbench.controllers.inverse import Inverse
from avpbench.controllers.random import Random
from avpbench.controllers.snapkv import SnapKV
from avpbench.controllers.uniform import Uniform
from avpbench.controllers.zipcache import ZipCache
from avpbench.core import AgentState
from avpbench.engine.engine import Engine
from avpbench.errors import ControllerError
from avpbench.probe import fingerprint

NAMES = sorted(p.stem for p in (CONF / "strategy" / "controller").glob("*.yaml"))
CODECS = codecs()


@pytest.fixture(params=NAMES)
def controller(request: pytest.FixtureRequest) -> Controller:
    return strategy(f"strategy/controller={request.param}").controller


@pytest.fixture(scope="module")
def whole(tiny: Engine) -> AgentState:
    return captured(tiny)


@pytest.fixture
def state(controller: Controller, whole: AgentState) -> AgentState:
    """A sender of which nothing is captured but what the controller names in `needs`."""
    return with_only(whole, controller.needs)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.55, 1.0])
def test_a_plan_is_within_the_budget_and_leaves_less_than_a_step(
    controller: Controller, state: AgentState, codec: str, share: float
) -> None:
    request = asked(state, codec, protect=1)
    budget = int(share * int(request.costs_BK[:, -1].sum()))
    levels = plan(controller, request, budget)
    assert int(levels[-1]) == NATIVE
    left, places = budget - plan_bytes(levels, request), request.places(levels)
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
    made = strategy(f"strategy/controller={name}", f"strategy/codec={codec}", "strategy.budget_bits=14")
    sender = with_only(captured(odd), made.needs)
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


def test_a_ranking_is_finite_and_says_something(controller: Controller, state: AgentState) -> None:
    score = scored(controller, asked(state))
    assert score is None or len(score.unique()) > 5


def test_one_token_is_planned(controller: Controller, state: AgentState) -> None:
    request = asked(state)
    one = replace(
        request, fresh_N=request.fresh_N[-1:], rows=[row[:, -1:] for row in request.rows], protected_N=torch.zeros(1, dtype=torch.bool)
    )
    assert plan(controller, one, one.table.num_bytes(4, 1)).tolist() == [4]


@pytest.mark.parametrize(("value", "codec"), [(0.0, "affine"), (1.0, "hadamard"), (1e-30, "lloydmax"), (1e30, "affine")])
def test_caches_without_shape_are_planned(controller: Controller, state: AgentState, value: float, codec: str) -> None:
    """Constant, zero, tiny and huge caches: finite scores, a level for every token, the budget held."""
    same = tuple(torch.full_like(k, value) for k in state.cache.keys_HTD)
    request = asked(replace(state, cache=replace(state.cache, keys_HTD=same, values_HTD=same)), codec)
    budget = request.table.num_bytes(4, 1) * len(request.fresh_N) // 2
    levels = plan(controller, request, budget)
    assert levels.shape == request.fresh_N.shape
    assert sum(request.table.num_bytes(level, 1) for level in levels.tolist()) <= budget


def test_random_deals_the_other_s_levels_and_every_seed_deals_otherwise(whole: AgentState) -> None:
    request = asked(whole, protect=3)
    budget = request.table.num_bytes(4, 1) * len(request.fresh_N)
    own = plan(SnapKV(5), request, budget)
    dealt = [plan(Random(SnapKV(5), seed), request, budget) for seed in range(8)]
    for levels in dealt:
        assert torch.equal(levels.sort().values, own.sort().values)
        assert levels[-3:].tolist() == [NATIVE] * 3
    assert len({tuple(levels.tolist()) for levels in dealt}) == 8


def test_inverse_turns_the_ranking(whole: AgentState) -> None:
    request = asked(whole)
    up, down = SnapKV(1).score(request), Inverse(SnapKV(1)).score(request)
    assert torch.equal(down, -up)


def test_snapkv_keeps_its_window(whole: AgentState) -> None:
    """Few of its queries see the window's own tokens; the paper keeps them."""
    request = asked(whole)
    window = request.captured.window
    assert window is not None
    score_N = SnapKV(5).score(request)
    inside_N = request.cache.positions_T[request.fresh_N] >= window.positions_P[0]
    assert int(inside_N.sum()) == len(window.positions_P)
    assert bool((score_N[inside_N] == score_N.max()).all())
    assert float(score_N[~inside_N].min()) < float(score_N.max())


def test_zipcache_does_not_drop_what_no_probe_has_seen(whole: AgentState, tiny: Engine) -> None:
    """The last words of a turn, behind the last probe."""
    request = asked(whole)
    probes = request.captured.probes
    assert probes is not None
    unseen_N = request.cache.positions_T[request.fresh_N] > probes.positions_P.max()
    assert bool(unseen_N.any())
    score_N = ZipCache().score(request)
    assert bool((score_N[unseen_N] == score_N.max()).all())
    assert float(score_N[~unseen_N].min()) < float(score_N.max())


def test_a_ranking_that_there_is_not_cannot_be_turned(whole: AgentState) -> None:
    with pytest.raises(ControllerError, match=r"inverse\(uniform\): uniform ranks no tokens"):
        Inverse(Uniform()).score(asked(whole, "affine"))
