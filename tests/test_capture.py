"""What passes keep for controllers: queries, attention and predictions as the pass itself made them."""

from __future__ import annotations

import pytest
import torch
from conftest import cell, told
from quantizing import STORY, chain, strategy

from avpbench.agents import Agent, Speak
from avpbench.core import KVCache, Prefix, Queries
from avpbench.engine.attention import demand, output_errors
from avpbench.engine.batch import Start
from avpbench.engine.capture import CAPTURES
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.links.direct import Direct
from avpbench.phases import fidelity
from avpbench.strategies.raw import Raw


def test_demand_is_the_attention_of_what_comes_after(tiny: Engine) -> None:
    """Against transformers' own eager attention, and its sum is one a query."""
    state = chain(tiny, strategy(), 1)[0][0]
    prefix = Raw().inject(Raw().export(state, tiny, tiny.spec), tiny)
    ((queries, cache),) = tiny.behind([Start(prefix, tiny.template.following("And?"))], [(5, 6, 7)])
    told_S = demand(queries, cache)
    ids = torch.tensor([[*prefix.token_ids, *tiny.template.following("And?"), 5, 6, 7]])
    tiny.model.set_attn_implementation("eager")
    try:
        maps = tiny.model(ids, output_attentions=True).attentions
    finally:
        tiny.model.set_attn_implementation("sdpa")
    wanted_S = torch.stack([m[0, :, len(prefix.token_ids) :].mean((0, 1)) for m in maps]).mean(0)
    assert torch.allclose(told_S, wanted_S, atol=1e-5)
    assert float(told_S.sum()) == pytest.approx(1, abs=1e-4)
    said_S = demand(queries.predicting(3), cache)  # of what predicts the continuation, without the prompt before it
    assert torch.allclose(said_S, torch.stack([m[0, :, -4:-1].mean((0, 1)) for m in maps]).mean(0), atol=1e-5)
    assert not torch.allclose(said_S, told_S, atol=1e-3)
    assert output_errors(queries, cache, cache) == [0.0] * tiny.spec.num_layers


def test_captured_queries_and_predictions_are_the_pass_s_own(tiny: Engine) -> None:
    """Two rows of unlike lengths that speak unlike lengths, against each row alone in one pass."""
    agent = Agent(tiny, Raw(), Direct())
    prompts = [told(STORY, "planner"), told("Tom has 3 apples.", "planner")]
    scripts = ((5, 6, 7, 8, 9), tuple(range(10, 40)))
    job = Speak(tuple(Speech(len(s), generator("x"), s) for s in scripts), Sampling())
    done = agent.act([agent.receive(None, p) for p in prompts], prompts, job, needs=CAPTURES)
    for state, continuation in done:
        captured, span = state.captured, state.cache.span
        ids = continuation.token_ids[:span]
        ((queries, _),) = tiny.behind([Start(Prefix(), ids)], [()])
        assert captured.window is not None
        assert captured.window.positions_P.tolist() == list(range(span - 16, span))
        for ours, theirs in zip(captured.window.layers, queries.layers, strict=True):
            assert torch.allclose(ours, theirs[:, -16:], atol=2e-4)
        assert captured.probes is not None
        places = captured.probes.positions_P
        for ours, theirs in zip(captured.probes.layers, queries.layers, strict=True):
            assert torch.allclose(ours, theirs[:, places], atol=2e-4)
        (logs,) = tiny.score([Start(Prefix(), ids[:1])], [ids[1:]])
        assert captured.entropy_T is not None
        assert captured.confidence_T is not None
        assert len(captured.entropy_T) == len(captured.confidence_T) == span - captured.first
        assert torch.allclose(captured.confidence_T[1:], logs.amax(1).exp(), atol=1e-3)
        entropy = -torch.where(logs > -torch.inf, logs.exp() * logs, 0.0).sum(1)
        assert torch.allclose(captured.entropy_T[1:], entropy, atol=1e-3)


def test_the_oracle_is_told_of_the_gold_continuation_alone(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    real = fidelity.demand

    def told(queries: Queries, cache: KVCache) -> torch.Tensor:
        asked.append((len(queries.positions_P), int(queries.positions_P[-1])))
        return real(queries, cache)

    monkeypatch.setattr(fidelity, "demand", told)
    one = cell(tiny, limit=2, chain=2).through(strategy("strategy/controller=oracle"), Direct())
    records = fidelity.score(one, [0, 1])
    assert [count for count, _ in asked] == [record.tokens for record in records]
