"""Each gate passes on a sound engine and catches the fault that it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import dummy

from avpbench import gates, wire
from avpbench.agents import Agent
from avpbench.build import build
from avpbench.config import strategy_config
from avpbench.controllers.controller import plan_bytes
from avpbench.core import AgentState, KVCache, Parcel, Prefix
from avpbench.engine.batch import Batch, Start
from avpbench.engine.continuation import Prefilled
from avpbench.engine.engine import Engine
from avpbench.errors import GateFailed
from avpbench.links.direct import Direct
from avpbench.probe import Probe, disagreement
from avpbench.strategies import reprefill
from avpbench.strategies.quantized import _Draft
from avpbench.strategies.raw import Raw
from avpbench.strategies.tokens import pack


def agents(engine: Engine) -> list[Agent]:
    return [Agent(engine, Raw(), Direct())]


def test_a_sound_engine_passes_them_all(engine: Engine) -> None:
    results = gates.check(engine, agents(engine), full=True)
    assert [g.name for g in results if not g.passed] == []
    assert {g.name for g in results} == {
        "floor_is_small", "raw_equals_reprefill", "same_ids", "parcels_round_trip", "budgets_hold",
        "sender_unchanged", "shifted_position_detected", "shown_pad_detected", "wrong_model_detected",
    }  # fmt: skip
    gates.require(results)


def test_fast_gates_are_some_of_them(tiny: Engine) -> None:
    assert len(gates.check(tiny, agents(tiny), full=False)) == 6


def shift_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that counts positions from the cache's length plus one."""
    inject = Raw.inject

    def late(self: Raw, parcel: Parcel, receiver: Engine) -> Prefix:
        prefix = inject(self, parcel, receiver)
        assert prefix.cache is not None
        return replace(prefix, token_ids=(*prefix.token_ids, prefix.token_ids[-1]), cache=replace(prefix.cache, span=prefix.cache.span + 1))

    monkeypatch.setattr(Raw, "inject", late)


def show_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that forgets its mask."""
    init = Batch.__init__

    def unmasked(self: Batch, *args: Any) -> None:
        init(self, *args)
        self._mask_BT = torch.ones_like(self._mask_BT)

    monkeypatch.setattr(Batch, "__init__", unmasked)


def drop_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire that loses a bit of one value."""
    decode = wire.decode

    def lossy(buffer: memoryview) -> Parcel:
        parcel = decode(buffer)
        if "keys.0" in parcel.tensors:
            bits = parcel.tensors["keys.0"].clone()
            bits.view(torch.int32)[0, 0, 0] ^= 1
            return Parcel(parcel.card, parcel.tensors | {"keys.0": bits})
        return parcel

    monkeypatch.setattr(wire, "decode", lossy)


def write_into_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """An injection that scribbles on what it was given by reference."""
    inject = Raw.inject

    def scribble(self: Raw, parcel: Parcel, receiver: Engine) -> Prefix:
        with torch.inference_mode():
            parcel.tensors["values.0"][0, 0, 0] += 1
        return inject(self, parcel, receiver)

    monkeypatch.setattr(Raw, "inject", scribble)


def round_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that is not as raw as it says."""
    export = Raw.export

    def rounded(self: Raw, state: AgentState, *args: Any) -> Parcel:
        cache = state.cache
        keys = tuple(k.bfloat16().to(k.dtype) for k in cache.keys_HTD)
        return export(self, replace(state, cache=KVCache(keys, cache.values_HTD, cache.positions_T, cache.span)), *args)

    monkeypatch.setattr(Raw, "export", rounded)


def accept_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that does not look who sent."""
    inject = Raw.inject
    monkeypatch.setattr(Raw, "inject", lambda self, p, e: inject(self, Parcel(replace(p.card, sender=e.spec), p.tensors), e))


def forget_the_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that counts positions of what follows a cache from zero: every order after a cache is wrong alike."""
    prefill = Batch.prefill

    def from_zero(self: Batch, *args: Any) -> torch.Tensor:
        forward = self._forward
        self._forward = lambda inputs, positions, *rest: forward(inputs, positions - positions.min(), *rest)  # type: ignore[method-assign]
        return prefill(self, *args)

    monkeypatch.setattr(Batch, "prefill", from_zero)


def not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache path that yields NaN."""
    prefill = Engine.prefill

    def broken(self: Engine, starts: list[Start]) -> Prefilled:
        read = prefill(self, starts)
        return read._replace(logits_BV=torch.full_like(read.logits_BV, torch.nan)) if any(s.prefix.cache for s in starts) else read

    monkeypatch.setattr(Engine, "prefill", broken)


def forget_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A re-prefill that is given one token too few."""

    def short(state: AgentState) -> dict[str, torch.Tensor]:
        return pack(replace(state, token_ids=state.token_ids[1:]))

    monkeypatch.setattr(reprefill, "pack", short)


def empty_thoughts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that recomputes latent steps from zeros."""
    inputs = Batch._inputs

    def zeroed(self: Batch, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {k: torch.zeros_like(v) if k == "inputs_embeds" else v for k, v in inputs(self, ids).items()}

    monkeypatch.setattr(Batch, "_inputs", zeroed)


def alter_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire that changes what the card says."""
    decode = wire.decode
    monkeypatch.setattr(wire, "decode", lambda b: Parcel(replace((p := decode(b)).card, decision="changed"), p.tensors))


def overspend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quantized strategy that leaves the card out of its budget."""
    monkeypatch.setattr(_Draft, "num_bytes", lambda draft, levels: plan_bytes(levels, draft.request))


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (shift_positions, "raw_equals_reprefill"),
    (forget_the_span, "floor_is_small"),
    (not_a_number, "floor_is_small"),
    (not_a_number, "raw_equals_reprefill"),
    (forget_a_token, "raw_equals_reprefill"),
    (empty_thoughts, "raw_equals_reprefill"),
    (alter_the_card, "parcels_round_trip"),
    (show_padding, "same_ids"),
    (drop_a_bit, "parcels_round_trip"),
    (write_into_the_sender, "sender_unchanged"),
    (round_the_cache, "raw_equals_reprefill"),
    (accept_anybody, "wrong_model_detected"),
    (overspend, "budgets_hold"),
]


@pytest.mark.parametrize(("mutate", "name"), MUTANTS)
def test_each_gate_catches_its_mutant(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None], name: str
) -> None:
    mutate(monkeypatch)
    spender = Agent(tiny, build(strategy_config("uniform")), Direct())
    results = {g.name: g for g in gates.check(tiny, [spender] if name == "budgets_hold" else agents(tiny), full=True)}
    assert not results[name].passed
    with pytest.raises(GateFailed, match=name):
        gates.require(list(results.values()))


def test_detections_need_a_model_that_looks_at_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that hardly looks at its cache would make the detecting gates mean nothing, and they say so."""
    blind = dummy("qwen2", seed=9, initializer_range=1e-6)
    results = {g.name: g for g in gates.check(blind, agents(blind), full=True)}
    assert not results["shifted_position_detected"].passed
    assert not results["shown_pad_detected"].passed


def test_the_floor_covers_legitimate_orders(engine: Engine) -> None:
    probe = Probe.make(engine)
    assert 0 < probe.floor < 1e-2


def test_ids_that_differ_beyond_the_floor_are_told(tiny: Engine) -> None:
    probe = Probe.make(tiny)
    start = probe.starts[0]
    assert disagreement(tiny, start, (1, 2), (1, 2)) == 0
    assert disagreement(tiny, start, (40, 2), (50, 2)) > probe.floor
    assert disagreement(tiny, start, (1, 2), (1,)) == float("inf")


def test_the_gates_hold_and_detect_in_bfloat16_under_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real model's width, where one position must show above bfloat16's rounding; as drawn, it does not."""
    shape = {"hidden_size": 896, "num_attention_heads": 14, "num_hidden_layers": 12, "intermediate_size": 2432, "initializer_range": 0.02}
    wide = dummy("qwen2", dtype=torch.bfloat16, **shape)
    assert [g.name for g in gates.check(wide, agents(wide), full=True) if not g.passed] == []
    monkeypatch.setattr("avpbench.engine.load._attend", lambda model: None)
    flat = dummy("qwen2", dtype=torch.bfloat16, **shape)
    assert not next(g for g in gates.check(flat, agents(flat), full=True) if g.name == "shifted_position_detected").passed
