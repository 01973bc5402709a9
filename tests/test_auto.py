"""Negotiation: the documented rule, who counts as the same model, and what a run records of it."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, has, told

from avpbench import run, wire
from avpbench.agents import Agent, Speak
from avpbench.build import build
from avpbench.config import compose
from avpbench.core import ModelSpec
from avpbench.engine import vocabulary
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.identity import dtype_bits
from avpbench.engine.load import Source, load, spec_of
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import ConfigError, IncompatibleModels, WireError
from avpbench.links.direct import Direct
from avpbench.records import read_samples
from avpbench.setup import plan
from avpbench.strategies.auto import Auto
from avpbench.strategies.raw import Raw

TABLE = Path(__file__).parents[1] / "docs" / "negotiation.md"
FAST = ("tracker=console", "latency=off", "gates=off", "max_agent_tokens=12", "max_new_tokens=16", "limit=2")


def auto(*words: str) -> Auto:
    built: Auto = build(compose(["strategy=auto", *words]).strategy)
    return built


def rule() -> list[list[str]]:
    """The rows of the documented table: model, tokenizer, shared vocabulary, bandwidth, budget, handed over."""
    rows = [line.strip("|").split("|") for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[word.strip() for word in row] for row in rows[2:]]


def values(condition: str, low: Any, high: Any, edge: Any, below: Any) -> list[Any]:
    """Values that fit a cell of the table, those at its edge among them."""
    return {"-": [low, high], ">=": [edge, high], "<": [low, below]}[condition[:2].strip()]


def cases() -> list[Any]:
    found = []
    for row in rule():
        model, tokenizer, overlap, bandwidth, budget, wanted = row
        overlaps = values(overlap, 0.0, 1.0, 0.3, 0.2999) if overlap != "-" else [None]
        speeds = [None] if bandwidth == "null" else values(bandwidth, "1Mbps", "100Gbps", "4Gbps", "3.99Gbps")
        budgets = values(budget, 2, 64, 32, 31)
        for shared, speed, bits in itertools.product(overlaps, speeds, budgets):
            name = f"{model}-{tokenizer}-{shared}-{speed}-{bits}-{wanted}"
            found.append(pytest.param(model, tokenizer, shared, speed, bits, wanted, id=name))
    return found


@pytest.mark.parametrize(("model", "tokenizer", "shared", "speed", "bits", "wanted"), cases())
def test_the_documented_rule_is_the_rule(
    tiny: Engine, foreign: Engine, monkeypatch: pytest.MonkeyPatch, model: str, tokenizer: str, shared: float | None, speed: str | None,
    bits: float, wanted: str,
) -> None:  # fmt: skip
    other = replace(tiny.spec, weights_id="other") if model == "other" else tiny.spec
    if tokenizer == "other":
        other = foreign.spec
        real = vocabulary.between(tiny.spec, other)
        monkeypatch.setattr("avpbench.strategies.auto.between", lambda a, b: replace(real, overlap=shared))
    words = [] if speed is None else [f"strategy.bandwidth={speed}"]
    chosen, why = auto(f"strategy.quantized.budget_bits={bits}", *words).choose(tiny.spec, other)
    assert (chosen.kind if chosen else "text") == wanted
    assert why.startswith({"same": "same model", "other": "another"}[model])


def test_the_table_names_the_numbers_of_the_yaml() -> None:
    made, text = compose(["strategy=auto"]).strategy, TABLE.read_text(encoding="utf-8")
    assert f"< {made.raw_from} |" in text
    assert f">= {made.raw_from} |" in text
    assert f">= {made.min_overlap} |" in text
    assert f"< {made.min_overlap} |" in text
    assert (made.projected.min_overlap, made.projected.gate) == (made.min_overlap, made.gate)
    assert {row[-1] for row in rule()} == {"raw", "quantized", "projected", "text"}


def test_the_links_bandwidth_is_what_counts(tiny: Engine) -> None:
    assert auto("+link.bandwidth=1Gbps").choose(tiny.spec, tiny.spec)[0].kind == "quantized"  # type: ignore[union-attr]
    assert auto().choose(tiny.spec, tiny.spec)[0].kind == "raw"  # type: ignore[union-attr]


def test_as_a_rival_it_negotiates_for_the_cell_s_own_link() -> None:
    (rival,) = plan(compose(["strategy=raw", "latency.against=[auto]", "link.bandwidth=1Gbps", "max_agent_tokens=7"])).rivals
    assert isinstance(rival, Auto)
    assert (rival.bandwidth, rival.fallback_tokens) == (1e9, 7)


# --- who is the same model


def saved(engine: Engine, folder: Path) -> Path:
    engine.model.save_pretrained(folder)
    engine.tokenizer.save_pretrained(folder)
    return folder


def who(folder: Path, name: str = "one") -> ModelSpec:
    return spec_of(Source(name, path=str(folder)), torch.float32)


def test_a_renamed_copy_is_the_same_model_and_other_weights_at_its_path_are_not(tmp_path: Path, tiny: Engine) -> None:
    first = who(saved(tiny, tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    written = tmp_path / "b" / "config.json"
    written.write_text(written.read_text().replace("10000.0", "10000"))  # as other writers spell it
    copy = who(tmp_path / "b", "renamed")
    assert copy == first
    assert auto().choose(first, copy)[0].kind == "raw"  # type: ignore[union-attr]
    engine = load(Source("one", path=str(tmp_path / "a")), CPU, torch.float32)
    file = tmp_path / "a" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    changed = who(tmp_path / "a")
    assert changed != first
    assert auto().choose(first, changed)[0].kind == "projected"  # type: ignore[union-attr]
    again = load(Source("one", path=str(tmp_path / "a")), CPU, torch.float32)
    assert (engine.spec, again.spec) == (first, changed)


@pytest.mark.parametrize("field", ["weights_id", "rope", "num_kv_heads", "head_dim", "dtype", "num_layers", "family"])
def test_identity_covers(tiny: Engine, field: str) -> None:
    value = getattr(tiny.spec, field)
    other = replace(tiny.spec, **{field: value + 1 if isinstance(value, int) else "bfloat16" if field == "dtype" else "other"})
    assert auto().choose(tiny.spec, other)[0].kind == "projected"  # type: ignore[union-attr]
    with pytest.raises(IncompatibleModels, match=f"another model \\({field}"):
        Raw().check(tiny.spec, other)
    agent = Agent(tiny, Raw(), Direct())
    state, _ = agent.act([agent.receive(None, told("x"))], [told("x")], speech())[0]
    parcel = Raw().export(state, tiny, tiny.spec)
    with pytest.raises(WireError, match=f"parcel from another model: {field}"):
        Raw().inject(replace(parcel, card=replace(parcel.card, sender=other)), tiny)


def test_identity_leaves_out_names(tiny: Engine) -> None:
    assert replace(tiny.spec, name="/another/path") == tiny.spec


def speech(tokens: int = 8) -> Speak:
    return Speak((Speech(tokens, generator("x")),), Sampling())


def test_pairs_are_refused_before_weights_are_in_memory(tmp_path: Path, foreign: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from avpbench import setup
    from avpbench.engine.load import tokenizer_of

    tokenizer_of.cache_clear()  # of what other tests' hub gave under that name
    folder = saved(foreign, tmp_path / "other")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kwargs: str(folder))
    monkeypatch.setattr(setup.KEPT, "load", lambda *args: pytest.fail("weights were loaded"))
    words = ("receiver=qwen0.5b", "chain=2", f"results={tmp_path}")
    for strategy, message in (
        ("raw", "raw hands K/V from tiny to qwen0.5b"),
        ("quantized", "quantized hands K/V"),
        ("partial", "hands K/V from tiny to qwen0.5b"),
        *([("avp_raw", "avp_raw hands K/V")] if has("avp") else []),
        ("reprefill", "reprefill hands token ids"),
        ("projected strategy.min_overlap=1", "share .* of the smaller vocabulary"),
        ("random_direction strategy.min_overlap=1", "share .* of the smaller vocabulary"),
    ):
        with pytest.raises(IncompatibleModels, match=message):
            run(*FAST, *words, *f"strategy={strategy}".split())
    with pytest.raises(ConfigError, match="link=shared"):
        run(*FAST, *words, "strategy=text", "link=shared")


# --- what a run keeps of it


def test_a_run_records_what_was_handed_over_and_why(tmp_path: Path, foreign: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = saved(foreign, tmp_path / "other")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kwargs: str(folder))
    words = ("receiver=qwen0.5b", "chain=3", "strategy=auto", f"results={tmp_path}")
    done = {}
    for name, more in {
        "near": ("strategy.gate=off",),
        "far": ("strategy.min_overlap=1",),
        "think": ("strategy.min_overlap=1", "think_steps=2"),
    }.items():
        summary = run(*FAST, *words, *more, f"study={name}")
        (one,) = (tmp_path / name).glob("tiny+qwen0.5b-auto-c3-*")
        done[name] = summary, read_samples(one)
    for sample in done["near"][1]:
        assert [hop.strategy for hop in sample.hops] == ["projected"] * 2
        assert all(hop.decision is not None and hop.decision.startswith("another tokenizer, ") for hop in sample.hops)
        assert sample.status != "fallback"
    assert done["near"][0].quality.num_fallbacks == 0
    for name in ("far", "think"):
        summary, samples = done[name]
        assert (summary.quality.num_fallbacks, summary.quality.num_errors) == (2, 0)
        for sample in samples:
            assert sample.status == "fallback"
            assert [hop.strategy for hop in sample.hops] == ["text"] * 2
            assert all(turn.said and turn.generated_tokens > 0 for turn in sample.turns)
    assert json.loads(next((tmp_path / "far").glob("*/summary.json")).read_text())["strategy"] == "auto"


def test_a_role_of_its_own_makes_that_hop_another_one(tmp_path: Path, foreign: Engine) -> None:
    """Each hop is decided by its own two models, and the record has who played."""
    folder = saved(foreign, tmp_path / "other")
    words = (f"model.path={folder}", "model.name=other", "roles.solver=tiny", "chain=3", "strategy=auto", "strategy.gate=off")
    summary = run(*FAST, *words, f"results={tmp_path}")
    (one,) = (tmp_path / "adhoc").glob("*-auto-c3-*")
    for sample in read_samples(one):
        assert [hop.strategy for hop in sample.hops] == ["raw", "projected"]
        assert [turn.model for turn in sample.turns] == ["other", "other", "tiny"]
        kept = [turn.cached_tokens for turn in sample.turns]
        assert kept[0] == 0
        assert kept[1] > 0
        assert kept[2] == 0
    assert summary.quality.num_fallbacks == 0


def test_words_and_reasons_on_the_card_do_not_eat_into_a_budget(tiny: Engine) -> None:
    """What auto's quantized hop adds is what quantized alone would have added, and the codes are the same."""
    made, alone = auto("strategy.bandwidth=1Gbps"), build(compose(["strategy=quantized"]).strategy)
    parcels: dict[str, list[Any]] = {"auto": [], "alone": []}
    for name, strategy in (("auto", made), ("alone", alone)):
        agent, message = Agent(tiny, strategy, Direct()), None
        for hop in range(3):
            prompt = told(f"Tom has 12 apples and Sue has {hop} more than Tom, how many has Sue? " * 3, "planner")
            state, _ = agent.act([agent.receive(message, prompt)], [prompt], speech())[0]
            message = agent.send(state, tiny.spec).message
            assert isinstance(message, memoryview)
            parcels[name].append(wire.decode(message))
    for ours, theirs in zip(*parcels.values(), strict=True):
        assert ours.card.kind == "quantized"
        assert ours.card.decision == "same model, link of 1e+09 bit/s is under 4e+09: 4 bits a value"
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(torch.equal(t, theirs.tensors[name]) for name, t in ours.tensors.items())
        assert len(ours.card.body["turns"]) == 1 + parcels["auto"].index(ours)


def test_native_bits_are_the_dtypes(tiny: Engine) -> None:
    assert dtype_bits(tiny.spec) == 32
    assert dtype_bits(replace(tiny.spec, dtype="bfloat16")) == 16


def test_latent_states_want_agents_that_think(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set think_steps=10"):
        run(*FAST, "strategy=projected", "strategy.states=latent", f"results={tmp_path}")
