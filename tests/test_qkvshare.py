"""The learned controller: its features are what they are called, and its network is the one in its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quantizing import asked, captured

from avpbench.controllers import qkvshare
from avpbench.controllers.qkvshare import FEATURES, QKVShare, features
from avpbench.core import AgentState
from avpbench.engine.attention import attentions
from avpbench.engine.engine import Engine
from avpbench.errors import ControllerError


@pytest.fixture(scope="module")
def state(tiny: Engine) -> AgentState:
    return captured(tiny)


def test_features_are_what_they_are_called(state: AgentState) -> None:
    request = asked(state)
    columns = dict(zip(FEATURES, features(request).unbind(1), strict=True))
    ids = state.token_ids[: len(request.fresh_N)]
    place = max(range(len(ids)), key=ids.count)
    assert float(columns["frequency"][place].exp()) == pytest.approx(state.token_ids.count(ids[place]))
    assert len(state.token_ids) > state.captured.said > 0
    assert columns["segment type"].tolist() == [float(p >= state.captured.said) for p in range(len(ids))]
    assert state.captured.confidence_T is not None
    assert torch.equal(columns["confidence"], state.captured.confidence_T)
    assert state.captured.entropy_T is not None
    assert torch.equal(columns["entropy"], state.captured.entropy_T)
    assert state.captured.window is not None
    sees_PT = state.captured.window.positions_P[:, None] >= state.cache.positions_T
    mean, variance = torch.zeros(len(ids)), torch.zeros(len(ids))
    for layer in attentions(state.captured.window, state.cache):
        for token in range(len(ids)):  # of the queries that see it
            paid = layer[:, :, sees_PT[:, token], token]
            mean[token] += paid.mean()
            variance[token] += paid.var(correction=0)
    assert torch.allclose(columns["downstream demand"].exp(), mean / mean.mean(), atol=1e-5)
    assert torch.allclose(columns["attention variance"].exp(), variance / variance.mean(), atol=1e-4)


def test_the_score_is_the_network_s(state: AgentState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that weighs one feature alone makes that feature's ranking."""
    request = asked(state)
    monkeypatch.setattr(qkvshare, "files", lambda _: tmp_path)
    for place in range(len(FEATURES)):
        weight = [[float(k == place) for k in range(len(FEATURES))]]
        layers = [{"weight": weight, "bias": [50.0]}, {"weight": [[0.1]], "bias": [-5.0]}]  # gelu is linear up there
        (tmp_path / qkvshare.WEIGHTS).write_text(json.dumps({"layers": layers}))
        qkvshare._network.cache_clear()
        assert torch.allclose(QKVShare().score(request).log(), 0.1 * features(request)[:, place], atol=1e-3)
    qkvshare._network.cache_clear()


def test_what_was_not_captured_is_named(state: AgentState) -> None:
    blind = replace(asked(state), captured=replace(state.captured, entropy_T=None))
    with pytest.raises(ControllerError, match="not captured"):
        QKVShare().score(blind)
