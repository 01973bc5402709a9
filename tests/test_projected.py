"""The projected hand-off: what is mixed, which states, when it refuses, and what it then carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TASK, cell, dummy, settings, stranger, told, trained
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from avpbench import wire
from avpbench.agents import Agent, Speak, Think
from avpbench.build import build
from avpbench.cell import Cell
from avpbench.chain import run_chain
from avpbench.config import compose, identify
from avpbench.core import LATENT, AgentState, KVCache, Parcel, Turn
from avpbench.engine.batch import Start
from avpbench.engine.capture import HIDDEN
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.mixing import in_blocks, mixture, top_pairs
from avpbench.engine.sampling import Sampling, generator
from avpbench.engine.vocabulary import between, spellings
from avpbench.errors import ConfigError, IncompatibleModels, StateError, WireError
from avpbench.links.direct import Direct
from avpbench.prompts import as_json
from avpbench.strategies.projected import Projected
from avpbench.strategies.raw import Raw
from avpbench.strategies.states import hidden, places
from avpbench.strategies.strategy import Strategy

STORY = "Tom has 12 apples. Sue has 3 more apples than Tom. How many do they have?"


def strategy(*words: str, name: str = "projected") -> Any:
    return build(compose([f"strategy={name}", *words]).strategy)


def speech(tokens: int = 8, rows: int = 1) -> Speak:
    return Speak(tuple(Speech(tokens, generator("x")) for _ in range(rows)), Sampling())


def state_of(engine: Engine, made: Strategy, job: Speak | Think | None = None, words: str = STORY) -> AgentState:
    agent = Agent(engine, made, Direct())
    return agent.act([agent.receive(None, told(words, "planner"))], [told(words, "planner")], job or speech())[0][0]


def exported(engine: Engine, made: Strategy, receiver: Engine, job: Speak | Think | None = None) -> Parcel:
    return wire.decode(wire.encode(made.export(state_of(engine, made, job), engine, receiver.spec)))


# --- what is mixed


def full_mixture(hidden_NE: torch.Tensor, head_VE: torch.Tensor, table_VE: torch.Tensor, temperature: float) -> torch.Tensor:
    return (hidden_NE @ head_VE.T / temperature).double().softmax(-1) @ table_VE.double()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_error_of_k_pairs_lies_within_a_bound_that_falls_with_k(temperature: float) -> None:
    """e_k - e = (1 - m)(e_k - rest), so |e_k - e| <= 2 (1 - m) max|E|; scaling both to one norm at most doubles that, relatively."""
    torch.manual_seed(0)
    head, table, states = torch.randn(400, 24), torch.randn(400, 16), torch.randn(300, 24)
    wanted = full_mixture(states, head, table, temperature)
    length = torch.linalg.vector_norm(wanted, dim=-1)
    wanted = wanted / length[:, None]
    bounds, errors = [], []
    for k in (1, 2, 8, 32, 128, 400):
        pairs = top_pairs(states, lambda rows: rows @ head.T, 400, None, k, temperature)
        soft = mixture(pairs.columns_NK, pairs.probs_NK, table, torch.tensor(1.0)).double()
        error = torch.linalg.vector_norm(soft - wanted, dim=-1)
        bound = 4 * (1 - pairs.mass_N.double()).clamp(min=0) * torch.linalg.vector_norm(table, dim=-1).max() / length + 1e-5
        assert bool((error <= bound).all())
        bounds.append(float(bound.mean()))
        errors.append(float(error.mean()))
    assert bounds == sorted(bounds, reverse=True)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_pairs_by_hand_and_padding_masked() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0, 99.0]])  # the last one is padding
    pairs = top_pairs(logits, lambda rows: rows, 4, None, 2, 2.0)
    p = (logits[0, :4] / 2).softmax(-1)
    assert pairs.columns_NK.tolist() == [[1, 2]]
    assert pairs.probs_NK[0].tolist() == pytest.approx((p[[1, 2]] / p[[1, 2]].sum()).tolist())
    assert float(pairs.mass_N) == pytest.approx(float(p[1] + p[2]))
    assert float(pairs.entropy_N) == pytest.approx(float(-(p * p.log()).sum()))
    some = top_pairs(logits, lambda rows: rows, 4, torch.tensor([0, 3]), 2, 2.0)
    assert some.columns_NK.tolist() == [[0, 1]]
    assert float(some.mass_N) == pytest.approx(float(p[0] + p[3]))


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given:
            self.elements = max(self.elements, out.numel())
        return out


def test_no_matrix_is_copied_or_converted() -> None:
    head, table = torch.nn.Linear(64, 3000, bias=False).bfloat16(), torch.randn(3000, 64).bfloat16()
    with torch.inference_mode(), Largest() as largest:
        pairs = top_pairs(torch.randn(20, 64).bfloat16(), in_blocks(head), 3000, None, 16, 1.0)
        mixture(pairs.columns_NK, pairs.probs_NK, table, torch.tensor(1.0))
        assert largest.elements <= 1024 * 64 < 64 * 3000
        table.float()
        assert largest.elements == 64 * 3000  # it would have been seen


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("count", [1, 2, 130])
def test_logits_of_many_states_are_the_heads_own_up_to_its_rounding(dtype: torch.dtype, bias: bool, count: int) -> None:
    torch.manual_seed(0)
    head, states = torch.nn.Linear(64, 2500, bias=bias).to(dtype), torch.randn(count, 64).to(dtype)
    with torch.inference_mode():
        exact = torch.nn.functional.linear(states.double(), head.weight.double(), head.bias.double() if bias else None)
        got, own = in_blocks(head)(states).double(), head(states).double()
    assert float((got - exact).abs().max()) <= float((own - exact).abs().max()) + 1e-5


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


def from_scratch(engine: Engine, state: AgentState) -> torch.Tensor:
    """The last hidden states of the whole sequence, by the model itself."""
    ids = torch.tensor(state.token_ids[: state.cache.span])
    embeds = engine.model.get_input_embeddings()(ids.clamp(min=0))
    if state.soft_NE is not None:
        embeds[ids == LATENT] = state.soft_NE[: int((ids == LATENT).sum())]
    with torch.inference_mode():
        return engine.model.base_model(inputs_embeds=embeds[None]).last_hidden_state[0]


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


# --- the gate


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


def chain_of(engines: list[Engine], made: Strategy, **changes: object) -> Any:
    one = Cell.build(settings(chain=len(engines), **changes), TASK, engines, made, Direct(), 2)
    return run_chain(one.agents, [one.prompts(0)], one.jobs([0]))[0]


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


# --- between vocabularies


def test_two_tokenizers_meet_in_what_tokens_spell(tmp_path: Path) -> None:
    gpt, pieces = stranger(tmp_path / "a", "bytes"), stranger(tmp_path / "b", "pieces")
    shared = between(gpt.spec, pieces.spec)
    ours, theirs = gpt.tokenizer.get_vocab(), pieces.tokenizer.get_vocab()
    pairs = dict(zip(shared.source_ids_S.tolist(), shared.target_ids_S.tolist(), strict=True))
    assert pairs[ours["\u0120apples"]] == theirs["\u2581apples"]
    assert pairs[ours["\u00ff"]] == theirs["<0xFF>"]  # a byte on both sides
    assert pairs[ours["\u010a"]] == theirs["\n"]  # where there is a token for the character, it goes before the byte
    assert pairs[ours["<s>"]] == theirs["<s>"]
    assert 0.3 < shared.overlap < 1
    counts = [sum(not special and len(spelled) > 1 for special, spelled in spellings(e.tokenizer)) for e in (gpt, pieces)]
    multi = [k for k in spellings(gpt.tokenizer).keys() & spellings(pieces.tokenizer).keys() if not k[0] and len(k[1]) > 1]
    assert shared.overlap == len(multi) / min(counts)
    assert len(set(ours) & set(theirs)) / min(map(len, (ours, theirs))) < shared.overlap  # by raw spelling, most would be missed


def test_byte_symbols_alone_are_no_overlap(tmp_path: Path, tiny: Engine) -> None:
    bare = stranger(tmp_path / "bare", "bytes", 258)
    assert len(bare.tokenizer) == 258
    shared = between(tiny.spec, bare.spec)
    assert len(shared.source_ids_S) > 200
    assert shared.overlap == 0
    with pytest.raises(IncompatibleModels, match=r"share 0\.0% of the smaller vocabulary; strategy.min_overlap wants 30\.0%"):
        strategy().check(tiny.spec, bare.spec)


def test_soft_tokens_of_another_vocabulary_are_the_same_words(tiny: Engine, foreign: Engine) -> None:
    """Every mapped id spells at the receiver what it spelled at the sender, and the mass is of the whole distribution."""
    made = strategy("strategy.gate=off")
    parcel = exported(tiny, made, foreign)
    shared = between(tiny.spec, foreign.spec)
    assert set(parcel.tensors["tokens"].flatten().tolist()) <= set(shared.target_ids_S.tolist())
    state = state_of(tiny, made)
    logits = tiny.model.get_output_embeddings()(hidden(state, tiny, places(state, "all", 1)))[:, : tiny.vocab].detach()
    probs = logits.softmax(-1)
    best = probs[:, shared.source_ids_S].argmax(-1)
    assert parcel.tensors["tokens"][:, 0].tolist() == shared.target_ids_S[best].tolist()
    kept = probs[:, shared.source_ids_S].topk(32).values.sum(-1).mean()
    assert parcel.card.body["mass"] == pytest.approx(float(kept), rel=1e-4)
    prefix = made.inject(parcel, foreign)
    assert foreign.prefill([Start(prefix, foreign.template.following("And?"))])[1].isfinite().sum() == foreign.vocab


def test_a_vocabulary_that_was_never_met_is_said(tiny: Engine) -> None:
    with pytest.raises(IncompatibleModels, match="is not known in this process"):
        strategy().check(tiny.spec, replace(tiny.spec, name="far", tokenizer_id="0" * 16))


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


def test_a_tokenizer_of_pieces_spells_bytes(tmp_path: Path) -> None:
    found = spellings(trained(tmp_path, "pieces", 400))
    assert (False, b"A") in found
    assert (False, bytes([0xFF])) in found
    assert (True, b"</s>") in found
    assert (False, b"</s>") not in found
