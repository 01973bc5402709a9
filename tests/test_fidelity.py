"""The fidelity phase: every hop through bytes, what the gold continuation reads after each."""

from __future__ import annotations

import pytest
from conftest import cell
from quantizing import strategy

from avpbench import wire
from avpbench.engine.engine import Engine
from avpbench.links.direct import Direct
from avpbench.phases import fidelity
from avpbench.phases.replay import raw_transcript
from avpbench.strategies.raw import Raw


def test_attention_errors_are_per_hop_and_layer(tiny: Engine) -> None:
    made = strategy("strategy/controller=uniform", "strategy.budget_bits=level2")
    one = cell(tiny, limit=2, chain=3).through(made, Direct())
    for record in fidelity.score(one, [0, 1]):
        assert record.attention_errors is not None
        assert [len(layers) for layers in record.attention_errors] == [tiny.spec.num_layers] * 2
        assert all(0.001 < error < 1 for layers in record.attention_errors for error in layers)
    exact = fidelity.score(one.through(Raw(), Direct()), [0])[0]
    assert exact.attention_errors == [[0.0] * tiny.spec.num_layers] * 2


def test_every_hop_of_the_replay_goes_through_bytes(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    one = cell(tiny, limit=2, chain=4).through(strategy("strategy/controller=uniform"), Direct())
    raw_transcript(one, [0, 1])  # which is spoken by reference
    sent: list[str] = []
    real = wire.encode
    monkeypatch.setattr(wire, "encode", lambda parcel: sent.append(parcel.card.kind) or real(parcel))  # type: ignore[func-returns-value]
    fidelity.score(one, [0, 1])
    assert (sent.count("quantized"), sent.count("raw")) == (2 * 3, 2)
