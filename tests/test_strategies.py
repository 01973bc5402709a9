"""The contract of every strategy: each YAML in conf/strategy is tested because it exists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import strategies, told

from avpbench import wire
from avpbench.agents import Agent, Speak, Think
from avpbench.build import build
from avpbench.config import strategy_config
from avpbench.core import AgentState, Parcel, Prefix, Turn
from avpbench.engine.batch import Start
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import IncompatibleModels, WireError
from avpbench.links.direct import Direct
from avpbench.links.shared import Shared
from avpbench.probe import Probe, fingerprint
from avpbench.prompts import as_json
from avpbench.strategies.raw import Raw
from avpbench.strategies.reprefill import Reprefill
from avpbench.strategies.strategy import Strategy
from avpbench.strategies.text import Text
from avpbench.strategies.text_full import TextFull

NAMES = strategies()


@pytest.fixture(params=NAMES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    built: Strategy = build(strategy_config(request.param))
    return built


def speech(tokens: int = 8) -> Speak:
    return Speak((Speech(tokens, generator("x")),), Sampling())


def state_of(engine: Engine, strategy: Strategy, words: str = "Tom has 3 apples.", hops: int = 1) -> AgentState:
    """What the sender of hop `hops` holds."""
    agent = Agent(engine, strategy, Direct())
    message, state = None, None
    for hop in range(hops):
        prompt = told(f"{words} ({hop})", "planner" if hop == 0 else "critic")
        state, _ = agent.act([agent.receive(message, prompt)], [prompt], speech())[0]
        message = agent.send(state, engine.spec).message
    assert state is not None
    return state


def through_bytes(strategy: Strategy, state: AgentState, engine: Engine) -> Prefix:
    return strategy.inject(wire.decode(wire.encode(strategy.export(state, engine, engine.spec))), engine)


def test_a_kind_is_its_modules_name(strategy: Strategy) -> None:
    """So no two strategies open each other's parcels, or share a row in a table."""
    assert type(strategy).__module__ == f"avpbench.strategies.{strategy.kind}"


def test_a_receiver_goes_on_from_bytes(strategy: Strategy, engine: Engine) -> None:
    strategy.check(engine.spec, engine.spec)
    prefix = through_bytes(strategy, state_of(engine, strategy, hops=3), engine)
    assert not (prefix.text and prefix.token_ids)
    agent = Agent(engine, strategy, Direct())
    prompt = told("And?")
    opened = agent.receive(agent.send(state_of(engine, strategy), engine.spec).message, prompt)
    done = agent.act([opened], [prompt], speech())[0][1]
    assert 0 < len(done.new_ids) <= 8
    assert done.cached_tokens + done.prefilled_tokens == len(opened.start.token_ids)


def test_export_is_deterministic_and_changes_nothing(strategy: Strategy, engine: Engine) -> None:
    state = state_of(engine, strategy, hops=2)
    before = fingerprint(state.cache)
    first, second = (bytes(wire.encode(strategy.export(state, engine, engine.spec))) for _ in range(2))
    assert first == second
    through_bytes(strategy, state, engine)
    assert fingerprint(state.cache) == before


def test_bytes_and_reference_say_the_same(strategy: Strategy, engine: Engine) -> None:
    said = []
    for link in (Direct(), Shared()):
        agent = Agent(engine, strategy, link)
        opened = agent.receive(agent.send(state_of(engine, strategy), engine.spec).message, told("And?"))
        said.append(agent.act([opened], [told("And?")], speech(20))[0][1].new_ids)
    assert said[0] == said[1]


def test_a_parcel_of_another_kind_is_refused(strategy: Strategy, tiny: Engine) -> None:
    parcel = strategy.export(state_of(tiny, strategy), tiny, tiny.spec)
    with pytest.raises(WireError, match=f"{strategy.kind} opens .* only"):
        strategy.inject(Parcel(replace(parcel.card, kind="other"), parcel.tensors), tiny)


def test_thinkers_hand_over_thoughts(strategy: Strategy, engine: Engine) -> None:
    if not strategy.thinks:
        pytest.skip("hands over words")
    agent = Agent(engine, strategy, Direct())
    words = told("Tom has 3 apples and Sue has 4. " * 4)  # enough for a budget to hold a card
    state, done = agent.act([agent.receive(None, words)], [words], Think(3))[0]
    assert done.latent_steps == 3
    prefix = through_bytes(strategy, state, engine)
    assert engine.prefill([Start(prefix, engine.template.first("y"))])[1].shape[0] == 1


@pytest.mark.parametrize("think", [0, 3])
def test_raw_and_reprefill_give_the_same_logits(engine: Engine, think: int) -> None:
    probe = Probe.make(engine)
    agent = Agent(engine, Raw(), Direct())
    job = Think(think) if think else speech(10)
    state, _ = agent.act([agent.receive(None, told("Tom has 3 apples."))], [told("Tom has 3 apples.")], job)[0]
    raw, again = through_bytes(Raw(), state, engine), through_bytes(Reprefill(), state, engine)
    assert raw.token_ids == again.token_ids
    assert again.cache is None
    a, b = (engine.prefill([Start(p, probe.following)])[1][0, : len(engine.tokenizer)] for p in (raw, again))
    assert float((a - b).abs().max()) <= 4 * probe.floor


def test_words_are_what_was_said_and_nothing_else(tiny: Engine) -> None:
    state = state_of(tiny, Text(), hops=2)
    assert state.received is not None
    first = state.received.card.body["turns"][0]["said"]
    prefix = through_bytes(Text(), state, tiny)
    assert prefix.text == as_json([Turn("planner", "", first), Turn("critic", "", state.turn.said)], whole=False)
    assert "apples. (0)" not in prefix.text
    whole = through_bytes(TextFull(), state_of(tiny, TextFull(), hops=2), tiny).text
    assert "apples. (0)" in whole
    assert "apples. (1)" in whole


def test_question_only_carries_the_question(tiny: Engine) -> None:
    prefix = through_bytes(build(strategy_config("question_only")), state_of(tiny, Text(), hops=1), tiny)
    assert prefix.text == "Question: Tom has 3 apples. (0)\n"


def test_blank_carries_nothing(tiny: Engine) -> None:
    blank = build(strategy_config("blank"))
    prefix = through_bytes(blank, state_of(tiny, blank), tiny)
    assert (prefix.text, prefix.token_ids, prefix.cache) == ("", (), None)


def test_another_model_is_refused(tiny: Engine, untied: Engine) -> None:
    with pytest.raises(IncompatibleModels, match="another model"):
        Raw().check(tiny.spec, untied.spec)
    parcel = Raw().export(state_of(untied, Raw()), untied, untied.spec)
    with pytest.raises(WireError, match="parcel from another model: weights_id"):
        Raw().inject(parcel, tiny)
    again = Reprefill().export(state_of(tiny, Reprefill()), tiny, tiny.spec)
    with pytest.raises(WireError, match="parcel from another model: tokenizer_id"):
        Reprefill().inject(Parcel(replace(again.card, sender=replace(tiny.spec, tokenizer_id="x")), again.tensors), tiny)
    Reprefill().inject(Parcel(replace(again.card, sender=replace(tiny.spec, weights_id="x")), again.tensors), tiny)
    agent = Agent(tiny, Reprefill(), Direct())
    thought, _ = agent.act([agent.receive(None, told("x"))], [told("x")], Think(2))[0]
    parcel = Reprefill().export(thought, tiny, tiny.spec)
    with pytest.raises(WireError, match="parcel from another model: weights_id"):
        Reprefill().inject(Parcel(replace(parcel.card, sender=replace(tiny.spec, weights_id="x")), parcel.tensors), tiny)
    other = replace(tiny.spec, tokenizer_id="other")
    with pytest.raises(IncompatibleModels, match="whose tokenizer is another"):
        Reprefill().check(tiny.spec, other)
    for name in ("text", "text_full", "blank", "question_only"):
        build(strategy_config(name)).check(tiny.spec, untied.spec)


def broken(parcel: Parcel, how: str) -> Parcel:
    t, card = dict(parcel.tensors), parcel.card
    if how == "no layer":
        del t["keys.2"]
    elif how == "short layer":
        t["values.1"] = t["values.1"][:, :-1]
    elif how == "dtype":
        t["keys.0"] = t["keys.0"].half()
    elif how == "axes":
        t["keys.0"] = t["keys.0"][0]
    elif how == "ids out of range":
        t["token_ids"] = t["token_ids"] + 10**6
    elif how == "too many ids":
        t["token_ids"] = t["token_ids"].repeat(9)
    elif how == "span":
        card = replace(card, body={"span": 10**9})
    elif how == "no span":
        card = replace(card, body={})
    elif how == "positions fall":
        t["positions"] = t["positions"].flip(0)
    elif how == "positions beyond":
        t["positions"] = t["positions"] + 5
    elif how == "latent without input":
        t["token_ids"] = t["token_ids"].clone()
        t["token_ids"][3] = -1
    elif how == "soft without latent":
        t["soft"] = torch.zeros(1, 128)
    elif how == "positions float":
        t["positions"] = t["positions"].float()
    return Parcel(card, t)


@pytest.mark.parametrize("how", [
    "no layer", "short layer", "dtype", "axes", "ids out of range", "too many ids", "span", "no span", "positions fall",
    "positions beyond", "latent without input", "soft without latent", "positions float",
])  # fmt: skip
def test_raw_refuses_parcels_that_lie(tiny: Engine, how: str) -> None:
    parcel = Raw().export(state_of(tiny, Raw()), tiny, tiny.spec)
    Raw().inject(wire.decode(wire.encode(parcel)), tiny)
    with pytest.raises(WireError):
        Raw().inject(wire.decode(wire.encode(broken(parcel, how))), tiny)


@pytest.mark.parametrize("turns", [None, "x", [1], [{"role": "a"}], [{"role": "a", "asked": "b", "said": 3}]])
def test_words_refuse_cards_that_lie(tiny: Engine, turns: object) -> None:
    parcel = Text().export(state_of(tiny, Text()), tiny, tiny.spec)
    with pytest.raises(WireError, match="turns must be"):
        Text().inject(Parcel(replace(parcel.card, body={"turns": turns}), {}), tiny)
