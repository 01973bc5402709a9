"""When a projected hand-off refuses, and the words that it then carries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import told
from projecting import chain_of, from_scratch, state_of, strategy

from avpbench.agents import Agent, Think
from avpbench.engine.engine import Engine
from avpbench.errors import StateError
from avpbench.links.direct import Direct
from avpbench.prompts import as_json

REFUSALS = {"max_entropy=0": "entropy of", "min_mass=1": "of the probability kept", "max_tokens_per_state=1": "a state for"}


@pytest.mark.parametrize("bound", REFUSALS)
@pytest.mark.parametrize("name", ["projected", "auto", "random_direction"])
def test_the_gate_refuses_and_the_words_are_carried(tiny: Engine, untied: Engine, bound: str, name: str) -> None:
    inner = {"projected": "strategy", "auto": "strategy.projected", "random_direction": "strategy"}[name]
    words = (f"{inner}.{bound}", f"{inner}.states=last")
    made = strategy(*words, name=name)
    agents = [Agent(tiny, made, Direct()), Agent(untied, made, Direct())]
    state = state_of(tiny, made)
    out = agents[0].send(state, untied.spec)
    assert out.strategy == "text"
    assert out.decision is not None
    assert "gate: " in out.decision
    assert REFUSALS[bound] in out.decision
    opened = agents[1].receive(out.message, told("And?"))
    assert as_json([state.turn], whole=False) in tiny.decode(opened.start.prompt_ids)
    parcel = strategy(*words, "strategy.gate=off", name=name).export(state, tiny, untied.spec)
    assert parcel.card.kind == ("random_direction" if name == "random_direction" else "projected")
    assert REFUSALS[bound] in parcel.card.body["refusal"]


def test_states_that_are_not_numbers_fall_back_or_raise(tiny: Engine, untied: Engine) -> None:
    made = strategy()
    state = state_of(tiny, made)
    assert state.captured.hidden_TE is not None
    spoilt = state.captured.hidden_TE.clone()
    spoilt[3] = float("nan")
    state = replace(state, captured=replace(state.captured, hidden_TE=spoilt))
    parcel = made.export(state, tiny, untied.spec)
    assert (parcel.card.kind, parcel.card.decision) == ("text", "gate: a state is not a number")
    with pytest.raises(StateError, match="not a number"):
        strategy("strategy.gate=off").export(state, tiny, untied.spec)


def test_a_late_fallback_carries_every_agents_words(tiny: Engine, untied: Engine, foreign: Engine) -> None:
    """The first hop is K/V or soft tokens, the second has to be words: nothing that was said is lost."""
    made = strategy("strategy.min_overlap=1", name="auto")
    done = chain_of([tiny, tiny, untied, foreign], made)
    assert [hop.strategy for hop in done.hops] == ["raw", "projected", "text"]
    assert done.state.received is not None
    assert [turn["said"] for turn in done.state.received.card.body["turns"]] == [turn.said for turn in done.turns[:3]]


def test_one_that_only_thought_speaks_before_a_fallback_and_it_is_counted(tiny: Engine, foreign: Engine) -> None:
    made = strategy("strategy.min_overlap=1", "strategy.fallback_tokens=7", name="auto")
    done = chain_of([tiny, foreign], made, think_steps=3)
    (hop,) = done.hops
    assert hop.strategy == "text"
    thinker = done.turns[0]
    assert (thinker.latent_steps, thinker.finish) == (3, "latent")
    assert 0 < thinker.generated_tokens <= 7
    assert thinker.said
    assert done.state.received is not None
    assert done.state.received.card.body["turns"][0]["said"] == thinker.said
    kept = chain_of([tiny, tiny], made, think_steps=3).turns[0]
    assert (kept.generated_tokens, kept.said) == (0, "")
    assert thinker.prefilled_tokens == kept.prefilled_tokens + 1


def test_what_a_thinker_says_is_what_it_would_have_gone_on_to_say(tiny: Engine) -> None:
    """Its next word is the likeliest after all of its thoughts, the last one included."""
    made = strategy("strategy.max_entropy=0")
    state = state_of(tiny, made, Think(3))
    parcel = made.export(state, tiny, tiny.spec)
    assert state.soft_NE is not None
    with torch.inference_mode():
        said = int(tiny.model.get_output_embeddings()(from_scratch(tiny, state)[-1]).argmax())
    assert parcel.card.body["turns"][0]["said"].startswith(tiny.decode([said]))
