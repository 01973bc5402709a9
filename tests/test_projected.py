"""The projected hand-off: what is mixed, which states, when it refuses, and what it then carries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import cell, dummy, told
from omegaconf import OmegaConf
from projecting import STORY, chain_of, exported, from_scratch, speech, state_of, strategy

from avpbench import wire
from avpbench.agents import Agent, Speak, Think
from avpbench.config import compose, identify
from avpbench.core import LATENT, AgentState, KVCache, Parcel, Turn
from avpbench.engine.capture import HIDDEN
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import ConfigError, WireError
from avpbench.links.direct import Direct
from avpbench.strategies.projected import Projected
from avpbench.strategies.raw import Raw
from avpbench.strategies.states import hidden, places


def test_soft_tokens_have_the_mean_norm_and_follow_the_opening(tiny: Engine) -> None:
    prefix = strategy().inject(exported(tiny, strategy(), tiny), tiny)
    assert prefix.token_ids[0] == tiny.template.first("x")[0]
    assert set(prefix.token_ids[1:]) == {LATENT}
    table = tiny.model.get_input_embeddings().weight[: len(tiny.tokenizer)]
    norms = torch.linalg.vector_norm(prefix.soft_NE, dim=-1)
    assert torch.allclose(norms, torch.linalg.vector_norm(table, dim=-1).mean().expand_as(norms), rtol=1e-4)


def test_random_directions_keep_the_norm_and_nothing_else(tiny: Engine) -> None:
    made, control = strategy(), strategy(name="random_direction")
    meant = made.inject(exported(tiny, made, tiny), tiny)
    parcel = exported(tiny, control, tiny)
    drawn, again = control.inject(parcel, tiny), control.inject(parcel, tiny)
    assert parcel.card.kind == "random_direction"
    assert meant.token_ids == drawn.token_ids
    assert torch.equal(drawn.soft_NE, again.soft_NE)
    assert torch.allclose(*(torch.linalg.vector_norm(p.soft_NE, dim=-1) for p in (meant, drawn)), rtol=1e-4)
    assert float(torch.cosine_similarity(meant.soft_NE, drawn.soft_NE).abs().mean()) < 0.2


def test_the_control_is_set_as_what_it_controls() -> None:
    """In a grid of both a key that only one of them had would be left out for the other, and the two would differ in more than directions."""
    fields = compose(["strategy=projected"]).strategy
    for key, value in {
        "states": "last",
        "stride": 2,
        "top_k": 5,
        "temperature": 0.5,
        "gate": "off",
        "max_entropy": 1.0,
        "min_mass": 0.25,
    }.items():
        assert fields[key] != value
        made = strategy(f"strategy.{key}={value}", name="random_direction")
        assert getattr(made.of, key) == value
    both = OmegaConf.to_container(compose(["strategy=random_direction"]).strategy, resolve=True)
    assert isinstance(both, dict)
    assert both["of"] == OmegaConf.to_container(fields, resolve=True)


# --- which states


def fake(token_ids: tuple[int, ...], span: int) -> AgentState:
    cache = KVCache((), (), torch.arange(span), span)
    return AgentState(None, token_ids, None, cache, Turn("planner", "", ""), "", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "span", "which", "wanted"),
    [
        ((1, 2, 3, 4), 4, "all", [0, 1, 2]),  # stopped: the state at the last token says `stop` only
        ((1, 2, 3, 4), 3, "all", [0, 1, 2]),  # cut off: the last token has no state
        ((1, 2, 3, 4), 4, "last", [2]),
        ((1, 2, 3, 4, 5, 6), 6, "stride", [0, 2, 4]),
        ((1, 2, LATENT, LATENT), 4, "all", [0, 1, 2, 3]),
        ((1, LATENT, 2, LATENT, LATENT), 5, "latent", [3, 4]),
        ((1, 2, LATENT, LATENT), 4, "last", [3]),
    ],
)
def test_places(ids: tuple[int, ...], span: int, which: str, wanted: list[int]) -> None:
    assert list(places(fake(ids, span), which, 2)) == wanted


def test_latent_states_want_latent_steps() -> None:
    with pytest.raises(ConfigError, match="set think_steps"):
        places(fake((1, 2), 2), "latent", 1)


@pytest.mark.parametrize("job", ["speak", "think"])
def test_captured_states_are_the_models_own_in_a_batch_too(engine: Engine, job: str) -> None:
    made = strategy()
    agent = Agent(engine, made, Direct())
    prompts = [told("Hi.", "planner"), told(STORY, "planner"), told(STORY * 2, "planner")]
    speeches = tuple(Speech(n, generator("x")) for n in (2, 9, 5))
    done = agent.act([agent.receive(None, p) for p in prompts], prompts, Think(3) if job == "think" else Speak(speeches, Sampling()))
    for state, _ in done:
        at = range(state.cache.span)
        assert torch.allclose(hidden(state, engine, at), from_scratch(engine, state), atol=1e-3)


def test_states_of_a_prefix_that_came_as_kv_are_computed_anew(engine: Engine) -> None:
    auto = strategy(name="auto")
    agent = Agent(engine, auto, Direct())
    message = agent.send(state_of(engine, auto, Think(2)), engine.spec).message
    opened = agent.receive(message, told("And?", "critic"))
    state, done = agent.act([opened], [told("And?", "critic")], speech())[0]
    assert done.cached_tokens > 0
    assert torch.allclose(hidden(state, engine, range(state.cache.span)), from_scratch(engine, state), atol=1e-3)
    assert state.captured.hidden_TE is not None
    assert len(state.captured.hidden_TE) < state.cache.span


def test_directions_are_different_cells() -> None:
    there, back = (
        identify(compose([f"model={a}", f"receiver={b}", "strategy=projected"])) for a, b in (("tiny", "qwen0.5b"), ("qwen0.5b", "tiny"))
    )
    assert there.hash != back.hash
    assert there.folder != back.folder


@pytest.mark.parametrize("pair", ["head size", "hidden size", "vocabulary"])
def test_models_of_any_shape_understand_each_others_parcels(tiny: Engine, foreign: Engine, pair: str) -> None:
    other = {"head size": dummy(head_dim=16), "hidden size": dummy(hidden_size=96), "vocabulary": foreign}[pair]
    for engines in ([tiny, other, tiny], [other, tiny, other]):
        done = chain_of(engines, strategy("strategy.gate=off"))
        assert [hop.strategy for hop in done.hops] == ["projected"] * 2
        assert [turn.model for turn in done.turns] == [e.spec.name for e in engines]
        assert done.turns[1].cached_tokens == 0


# --- a receiver trusts nobody


def broken(parcel: Parcel, how: str) -> Parcel:
    tokens, probs = (parcel.tensors[name].clone() for name in ("tokens", "probs"))
    card = parcel.card
    if how == "another tokenizer":
        card = replace(card, body=card.body | {"tokenizer_id": "x"})
    elif how == "beyond":
        tokens[0, 0] = 10**6
    elif how == "padding row":
        tokens[0, 0] = 999
    elif how == "negative":
        tokens[0, 0] = -1
    elif how == "nan":
        probs[0, 0] = float("nan")
    elif how == "too much":
        probs *= 3
    elif how == "negative share":
        probs[0, 0] -= 1
    elif how == "shapes":
        probs = probs[:, :-1].contiguous()
    elif how == "no states":
        tokens, probs = tokens[:0], probs[:0]
    elif how == "endless":
        tokens, probs = tokens.repeat(200, 1), probs.repeat(200, 1)
    elif how == "dtype":
        probs = probs.double()
    return Parcel(card, {"tokens": tokens, "probs": probs})


@pytest.mark.parametrize("how", [
    "another tokenizer", "beyond", "padding row", "negative", "nan", "too much", "negative share", "shapes", "no states", "endless", "dtype",
])  # fmt: skip
def test_parcels_that_lie_are_refused(untied: Engine, how: str) -> None:
    made = strategy("strategy.gate=off")
    parcel = exported(untied, made, untied)
    made.inject(parcel, untied)
    with pytest.raises(WireError):
        made.inject(wire.decode(wire.encode(broken(parcel, how))), untied)


@pytest.mark.parametrize(
    "word",
    [
        "states=some",
        "stride=0",
        "top_k=0",
        "temperature=0",
        "gate=maybe",
        "max_entropy=-1",
        "min_mass=2",
        "min_overlap=2",
        "fallback_tokens=0",
    ],
)
def test_bad_values_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy.{word.partition('=')[0]}"):
        strategy(f"strategy.{word}")


def test_states_are_kept_only_where_they_are_wanted(tiny: Engine) -> None:
    assert Projected.needs == {HIDDEN}
    assert state_of(tiny, Raw()).captured.hidden_TE is None
    assert cell(tiny, "projected").agents[0].strategy.needs == {HIDDEN}
