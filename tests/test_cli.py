"""The command line: quick to answer, and it says what was meant."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import has
from omegaconf import OmegaConf

from avpbench.build import build
from avpbench.config import CONF, compose, groups
from avpbench.errors import ConfigError
from avpbench.hints import check
from avpbench.usage import usage

GROUPS = groups()


def avpbench(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "avpbench", *words], capture_output=True, text=True, check=False, cwd=cwd)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['avpbench', '--help']\n"
        "import runpy\n"
        "try: runpy.run_module('avpbench', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'wandb', 'pandas', 'scipy', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert "how should language-model agents hand context" in done.stdout
    assert "strategy: adaptive, auto" in done.stdout


def test_help_tells_every_key_of_every_choice() -> None:
    told = usage()
    for file in (path for path in CONF.rglob("*/*.yaml") if path.parent.name not in ("experiment", "launcher")):
        for key in set(yaml.safe_load(file.read_text()) or ()) - {"_target_", "defaults"}:
            assert re.search(rf"^ +{key}:", told, re.MULTILINE), f"{key} of {file}"
    assert "\n  defaults:" not in told
    assert "  pool: 5   # tokens that the score is smoothed over" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy=rwa"], "did you mean raw"),
        (["chian=3"], "did you mean chain"),
        (["latency.repeat=3"], "did you mean latency.repeats"),
        (["model=qwen2b"], "did you mean qwen"),
        (["chain"], "not KEY=VALUE"),
        (["strategy=raw,tex"], "did you mean text"),
        (["receiver=tinny"], "did you mean tiny"),
        (["roles.planner=tinny"], "did you mean tiny"),
        (["latency.against=[rewprefill]"], "did you mean reprefill"),
        (["shwo"], "did you mean show"),
        (["stragety=text"], "did you mean strategy or strategy.of[?]"),
        (["+foo=1"], "unknown key 'foo'"),
        (["++chian=3"], "did you mean chain"),
        (["+strategy=rwa"], "did you mean raw"),
        (["roles.boss=tiny"], "unknown key 'roles.boss'"),
        (["+roles.boss=tiny"], "unknown key 'roles.boss'; did you mean roles"),
        (["+tracker.seconds=1"], "unknown key 'tracker.seconds'"),
        (["limit", "=", "4"], "no blanks around =, write limit=4"),
        (["limit", "=4"], "no blanks around =, write limit=4"),
        (["limit=", "4"], "no blanks around =, write limit=4"),
        (["-m", "strategy=raw", "+strategy.budget_bits=3"], r"write strategy\.budget_bits=3; a grid"),
    ],
)
def test_did_you_mean(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(words, ("run", "show"))


@pytest.mark.parametrize(
    "word",
    [
        "strategy=raw,text", "chain=1,2", "model=qwen0.5b", "model.load=dummy", "task.path=/x", "latency=off",
        "strategy.projected.states=all", "strategy.quantized.controller.pool=3", "strategy.of.top_k=4",
    ],
)  # fmt: skip
def test_what_is_right_passes_and_the_same_with_a_slip_does_not(word: str) -> None:
    check(["-m", "hydra.verbose=true", word])
    with pytest.raises(ConfigError, match="unknown"):
        check(["-m", "hydra.verbose=true", word.replace("=", "x=", 1)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("strategy=raw strategy.budget_bits=3", "strategy=raw has no budget_bits; it has no keys; budget_bits is of adaptive, int4, quant"),
        ("strategy.budget_bits=3 strategy=raw", "strategy=raw has no budget_bits"),
        ("strategy=raw +strategy.budget_bits=3", "strategy=raw has no budget_bits"),
        ("strategy=raw strategy/controller=uniform", "strategy=raw has no controller"),
        ("strategy/controller=uniform strategy.controller.pool=3", "strategy.controller has no pool; it has no keys"),
        ("strategy.of.top_k=4", "strategy=adaptive has no of.top_k; it has controller, .*; of.top_k is of random_direction"),
        ("task=gsm8k task.level=easy", "task=gsm8k has no level; it has path, revision; level is of wordmath"),
        ("model.shape.hidden_size=64", "model.shape has no hidden_size; it has no keys"),
    ],
)
def test_a_key_that_the_choice_has_not_is_told_with_those_that_it_has(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(words.split())
    check(["-m", *words.replace("+", "").split()])  # a grid leaves it out


@pytest.mark.parametrize(
    "words",
    [
        "strategy.budget_bits=3",
        "strategy/controller=random strategy/controller@strategy.controller.of=uniform strategy.controller.seed=1",
        "strategy=random_direction strategy.of.top_k=4",
        "tracker._target_=slow_tracker.Slow +tracker.seconds=1",
        "model=qwen0.5b model.load=dummy model.shape.hidden_size=64 +model.shape.initializer_range=0.3",
        "+hydra.launcher.gpu=1",
        "latency=off latency.repeats=3 link=remote link.bandwidth=1Gbps ~task.level",
    ],
)
def test_a_key_that_has_a_place_passes(words: str) -> None:
    check(words.split())
    with pytest.raises(ConfigError, match="nowhere"):
        check([*words.split(), "+latency.nowhere=1"])


@pytest.mark.parametrize("word", ["strategy=raw,text", "chain=1,2", "seed=0, 1"])
def test_a_grid_wants_m(word: str) -> None:
    with pytest.raises(ConfigError, match=f"a grid of cells wants -m: python -m avpbench -m {word}"):
        check([word])
    check(["-m", word])
    check(["latency.against=[reprefill,text]"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "avpbench.strategies.gone.Gone"}, "names no class .*gone"),
        ({"_target_": "avpbench.strategies.raw.Row"}, "names no class .*Row"),
        ({"_target_": "avpbench.strategies.raw.Raw", "depth": 3}, "Raw.* was given depth: .*unexpected keyword"),
        ({"_target_": "avpbench.strategies.strategy.Strategy"}, "lacks check, export, inject"),
    ],
)
def test_a_yaml_that_does_not_fit_its_class_is_one_message(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(OmegaConf.create(config))


def test_what_the_data_cannot_give_is_refused_before_a_model_is_loaded() -> None:
    done = avpbench("limit=0", "tracker=console")
    assert done.returncode == 1
    assert "avpbench: limit must be 1 to 2000" in done.stderr
    assert "loading" not in done.stdout


def test_errors_are_one_message_without_a_traceback() -> None:
    done = avpbench("chain=0", "tracker=console")
    assert done.returncode == 1
    assert "avpbench: chain must be a whole number >= 1, got 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr


@pytest.mark.parametrize(
    "word",
    [
        "device=foo", "device=meta", "device=0", "task.size=x", "results=null", "chain=${nope}", "tracker=wandb tracker.mode=foo", "seed=abc",
        "temperature=warm", "study=a/b", "latency.against=raw", "context=10000000",
    ],
)  # fmt: skip
def test_bad_values_are_one_message_without_a_traceback(word: str, tmp_path: Path) -> None:
    done = avpbench("limit=1", *([] if word.startswith("results") else [f"results={tmp_path}"]), *word.split())
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "\navpbench: " in done.stderr


def test_show_renders_every_agent_without_weights() -> None:
    done = avpbench("show", "chain=3", "question=split")
    assert done.returncode == 0, done.stderr
    for role in ("planner", "critic", "solver"):
        assert f"You are the {role}" in done.stdout
    assert "gold solution" in done.stdout
    assert "<what came over the hop>" in done.stdout


@pytest.mark.slow
def test_a_multirun_compares_its_cells(tmp_path: Path) -> None:
    words = ["-m", "strategy=raw,blank", "chain=1,2", "limit=3", "tracker=console", f"results={tmp_path}", "latency.repeats=1"]
    done = avpbench(*words, "max_new_tokens=20", "max_agent_tokens=10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    comparison = done.stdout[done.stdout.index("comparison") :]
    assert comparison.count("single") == 1  # a chain of one is one cell, whatever the strategy
    assert "blank" in comparison
    assert "raw" in comparison
    assert "speed-up" in comparison
    assert done.stdout.count("task: wordmath") == 3
    assert done.stdout.count("tokens: a sample") == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"adhoc", ".multirun"}


@pytest.mark.filterwarnings("ignore:(?s).*is validated against ConfigStore schema")  # the launchers' own names: as in avpbench.job
@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names])
def test_every_yaml_composes(group: str, name: str) -> None:
    if name.startswith("avp_") and group == "strategy" and not has("avp"):
        pytest.skip("avp is not installed")
    cfg = compose([*(["strategy=quantized"] if group.startswith("strategy/") else []), f"{group}={name}"])
    if group in ("strategy", "link", "tracker"):
        assert build(cfg[group]) is not None
    if group == "model" and cfg.model.zoo is None:
        from transformers import AutoConfig

        from avpbench.engine.cache import refuse_partial_attention

        assert cfg.task._target_.endswith("Gsm8k")
        shape = OmegaConf.to_container(cfg.model.shape)
        assert isinstance(shape, dict)
        config = AutoConfig.for_model(shape.pop("model_type"), **shape)
        refuse_partial_attention(config)


PARAMETERS = {
    "qwen0.5b": 0.494e9, "qwen1.5b": 1.544e9, "qwen3b": 3.086e9, "qwen7b": 7.616e9, "llama1b": 1.236e9, "llama3b": 3.213e9,
    "llama8b": 8.030e9, "r1-qwen1.5b": 1.777e9, "r1-qwen7b": 7.616e9,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_have_the_published_number_of_parameters(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = OmegaConf.to_container(compose([f"model={name}"]).model.shape)
    assert isinstance(shape, dict)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(shape.pop("model_type"), **shape))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(PARAMETERS[name], rel=0.002)
