"""Beside AVP: its wire format both ways, bit for bit, and its package's own hand-offs as strategies."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
import torch
from conftest import has, told

from avpbench import wire
from avpbench.agents import Agent, Speak
from avpbench.build import build
from avpbench.config import compose, strategy_config
from avpbench.core import AgentState, KVCache, ModelSpec, Parcel
from avpbench.engine.cache import as_dynamic, as_rows
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.load import loaded
from avpbench.engine.mixing import mixture, top_pairs
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import ConfigError, StateError, WireError
from avpbench.interop import from_avp, to_avp
from avpbench.links.direct import Direct
from avpbench.setup import plan
from avpbench.strategies.raw import Raw
from avpbench.strategies.states import hidden, places

pytestmark = pytest.mark.skipif(not has("avp"), reason="avp is not installed")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SPEC = ModelSpec("m", "w", "t", "qwen2", 3, 2, 8, "{}", "float32")


def random_cache(dtype: torch.dtype, tokens: int = 5) -> KVCache:
    """Any bits at all, NaN and infinity among them; strided as a slice of a batch is."""
    bits = torch.randint(0, 256, (6, 2, tokens + 3, 8 * dtype.itemsize), dtype=torch.uint8).view(dtype)
    rows = tuple(bits[k, :, :tokens] for k in range(6))
    return KVCache(rows[:3], rows[3:], torch.arange(tokens), tokens)


def same_bits(a: KVCache, b: KVCache) -> bool:
    pairs = zip((*a.keys_HTD, *a.values_HTD), (*b.keys_HTD, *b.values_HTD), strict=True)
    return all(torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8)) for x, y in pairs)


def context(cache: KVCache) -> object:
    from avp.context import AVPContext

    return AVPContext(past_key_values=as_dynamic(cache), model_hash="h", num_steps=0, seq_len=cache.span, num_layers=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 5])
def test_avp_reads_what_we_write_and_we_read_what_it_writes(dtype: torch.dtype, tokens: int) -> None:
    from avp.context import AVPContext

    cache = random_cache(dtype, tokens)
    spec = replace(SPEC, dtype=str(dtype).removeprefix("torch."))
    theirs = AVPContext.from_bytes(bytes(to_avp(cache, spec)))
    assert same_bits(KVCache(*as_rows(theirs.past_key_values), cache.positions_T, cache.span), cache)
    assert (theirs.seq_len, theirs.num_layers, theirs.model_hash, theirs.model_family) == (tokens, 3, "w", "qwen2")
    ours = from_avp(context(cache).to_bytes(), spec)  # type: ignore[attr-defined]
    assert same_bits(ours, cache)
    assert (ours.span, ours.positions_T.tolist()) == (tokens, list(range(tokens)))
    assert same_bits(from_avp(to_avp(cache, spec), spec), cache)


def state_of(engine: Engine, strategy: str = "raw", *words: str) -> AgentState:
    agent = Agent(engine, build(compose([f"strategy={strategy}", *words]).strategy), Direct())
    prompt = told("Tom has 3 apples.", "planner")
    return agent.act([agent.receive(None, prompt)], [prompt], Speak((Speech(6, generator("x")),), Sampling()))[0][0]


def test_a_raw_hand_off_goes_through_avps_format_and_on(engine: Engine) -> None:
    state = state_of(engine)
    prefix = Raw().inject(wire.decode(wire.encode(Raw().export(state, engine, engine.spec))), engine)
    assert prefix.cache is not None
    back = from_avp(to_avp(prefix.cache, engine.spec), engine.spec)
    assert same_bits(back, state.cache)


def test_avp_raw_hands_over_the_same_bits_as_raw(engine: Engine) -> None:
    state = state_of(engine)
    prefixes = []
    for name in ("raw", "avp_raw"):
        strategy = build(strategy_config(name))
        prefixes.append(strategy.inject(wire.decode(wire.encode(strategy.export(state, engine, engine.spec))), engine))
    ours, theirs = (p.cache for p in prefixes)
    assert ours is not None
    assert theirs is not None
    assert same_bits(ours, theirs)
    assert prefixes[0].token_ids == prefixes[1].token_ids


@pytest.mark.parametrize("how", ["empty", "garbage", "another message", "layers"])
def test_avp_raw_refuses_messages_that_lie(tiny: Engine, how: str) -> None:
    strategy = build(strategy_config("avp_raw"))
    parcel = strategy.export(state_of(tiny), tiny, tiny.spec)
    message = parcel.tensors["avp"]
    cut = {
        "empty": message[:0], "garbage": torch.randint(0, 256, (400,), dtype=torch.uint8), "another message": message[:-9],
        "layers": torch.frombuffer(bytearray(to_avp(random_cache(torch.float32), SPEC)), dtype=torch.uint8),
    }[how]  # fmt: skip
    with pytest.raises(WireError):
        strategy.inject(Parcel(parcel.card, parcel.tensors | {"avp": cut}), tiny)


def test_what_the_format_cannot_hold_is_refused() -> None:
    cache = random_cache(torch.float32)
    with pytest.raises(WireError, match="no positions; this cache holds 5 of 7 tokens"):
        to_avp(replace(cache, positions_T=torch.tensor([0, 1, 2, 5, 6]), span=7), SPEC)
    huge = torch.empty(1).expand(8, 2**18, 128)  # no bytes of its own
    with pytest.raises(WireError, match="32 bits; this cache takes 6442450944 bytes"):
        to_avp(KVCache((huge,) * 3, (huge,) * 3, torch.arange(2**18), 2**18), SPEC)
    with pytest.raises(WireError, match="float64"):
        to_avp(replace(cache, keys_HTD=tuple(t.double() for t in cache.keys_HTD)), SPEC)


def test_damaged_messages_are_typed_errors_or_harmless() -> None:
    cache = random_cache(torch.float32)
    whole = bytes(to_avp(cache, SPEC))
    rng = random.Random(0)
    refused = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            data = data[: rng.randrange(len(data))]
        try:
            assert same_bits(from_avp(bytes(data), SPEC), cache)
        except WireError:
            refused += 1
    assert refused > 2000


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"XX", "not an AVP message"), (2, b"\x02", "not an AVP message of version 1"), (3, b"\x05", "uncompressed"), (3, b"\x00", "wanted K/V"),
        (4, struct.pack("<I", 2**32 - 1), "truncated or corrupt"), (8, struct.pack("<I", 2**32 - 1), "truncated or corrupt"),
    ],
)  # fmt: skip
def test_headers_that_lie_are_named(at: int, value: bytes, message: str) -> None:
    data = bytearray(to_avp(random_cache(torch.float32), SPEC))
    data[at : at + len(value)] = value
    with pytest.raises(WireError, match=message):
        from_avp(bytes(data), SPEC)


def test_another_shape_is_refused() -> None:
    with pytest.raises(WireError, match=r"float32.*m has"):
        from_avp(to_avp(random_cache(torch.float32), SPEC), replace(SPEC, head_dim=16))


def test_avp_projected_is_the_full_mixture_that_projected_tends_to(tiny: Engine, untied: Engine) -> None:
    """AVP's own result against ours with every token among the pairs; the untied head has padding rows, which AVP mixes in."""
    peer = build(compose(["strategy=avp_projected", "strategy.states=all"]).strategy)
    for sender, receiver in ((tiny, tiny), (tiny, untied)):
        state = state_of(sender, "avp_projected")
        prefix = peer.inject(wire.decode(wire.encode(peer.export(state, sender, receiver.spec))), receiver)
        states = hidden(state, sender, places(state, "all", 1))
        pairs = top_pairs(states, sender.model.get_output_embeddings(), sender.vocab, None, sender.vocab, 1.0)
        table = receiver.model.get_input_embeddings().weight
        wanted = mixture(pairs.columns_NK, pairs.probs_NK, table, receiver.realign.mean_norm)
        assert prefix.soft_NE is not None
        assert torch.allclose(prefix.soft_NE, wanted, rtol=1e-3, atol=1e-4)


def test_avp_projected_goes_between_vocabularies(tiny: Engine, foreign: Engine) -> None:
    peer = build(strategy_config("avp_projected"))
    prefix = peer.inject(wire.decode(wire.encode(peer.export(state_of(tiny, "avp_projected"), tiny, foreign.spec))), foreign)
    assert prefix.soft_NE is not None
    assert prefix.soft_NE.shape == (1, 64)


def test_avp_projected_refuses_what_is_not_a_number(tiny: Engine) -> None:
    state = state_of(tiny, "avp_projected")
    assert state.captured.hidden_TE is not None
    spoilt = state.captured.hidden_TE.clone()
    spoilt[:] = float("nan")
    state = replace(state, captured=replace(state.captured, hidden_TE=spoilt))
    with pytest.raises(StateError, match="not a number"):
        build(strategy_config("avp_projected")).export(state, tiny, tiny.spec)


@pytest.mark.parametrize("words", [["strategy=avp_projected"], ["latency.against=[avp_projected]"]])
def test_avp_projected_is_refused_between_processes_before_anything_is_loaded(words: list[str]) -> None:
    plan(compose([*words, "link=direct"]))
    plan(compose([*words, "link=remote", "chain=1"]))
    with pytest.raises(ConfigError, match="avp_projected needs both models in one process; choose link=direct"):
        plan(compose([*words, "link=remote"]))


def test_avp_projected_wants_both_models_in_one_process(tiny: Engine) -> None:
    peer = build(strategy_config("avp_projected"))
    parcel = peer.export(state_of(tiny, "avp_projected"), tiny, tiny.spec)
    found = loaded(tiny.spec)
    assert found is not None
    assert found.spec == tiny.spec
    far = replace(parcel.card, sender=replace(tiny.spec, weights_id="elsewhere"))
    with pytest.raises(WireError, match="is not in this process"):
        peer.inject(replace(parcel, card=far), tiny)
