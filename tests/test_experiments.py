"""Every study's YAML composes, and every declaration asks for what exists: tested because the files exist."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from analysis.cells import dotted
from analysis.declared import claims, combinations, filled, studies
from analysis.metrics import metric
from analysis.timing import CLOCKS
from avpbench.config import CONF

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
NAMES = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
STUDIES = [study for study in studies(EXPERIMENTS) if (CONF / "experiment" / f"{study.name}.yaml").exists()]
NOT_RUN = [study for study in STUDIES if study.optional or "run.sh" not in study.command]  # the others: test_declared.py
HELD = {
    "study",
    "model",
    "task",
    "chain",
    "controller",
    "codec",
    "budget_bits",
    "fraction",
    "requantize",
    "variant",
    "load",
    "level",
    "think_steps",
    "receiver",
}


def composed(name: str, *words: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[f"experiment={name}", *words], return_hydra_config=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_every_study_composes(name: str) -> None:
    """Each swept value beside the strategies that have it; a key that none has would never be swept."""
    cfg = composed(name)
    assert cfg.study in NAMES
    assert name.startswith(cfg.study)
    swept = {key: str(values).split(",") for key, values in cfg.hydra.sweeper.params.items()}
    strategies = swept.pop("strategy", [None])
    for key, values in swept.items():
        taken = 0
        for strategy, value in itertools.product(strategies, (values[0], values[-1])):
            try:
                composed(name, *([f"strategy={strategy}"] if strategy else []), f"{key}={value}")
                taken += 1
            except HydraException:
                assert key.startswith("strategy."), f"{key} is no key"
        assert taken, f"no strategy takes {key}"


@pytest.mark.parametrize("study", ["qkvshare_ttft", "qkvshare_hops", "sensitivity", "bandwidth"])
@pytest.mark.parametrize("model", ["qwen0.5b", "qwen1.5b", "llama8b"])
def test_every_study_has_its_real_models(study: str, model: str) -> None:
    cfg = composed(f"{study}_{model}")
    assert (cfg.model.name, cfg.model.load, cfg.model.zoo) == (model, "weights", None)
    assert cfg.task._target_.endswith("Gsm8k")
    assert cfg.hydra.sweeper.params == composed(study).hydra.sweeper.params


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_what_a_study_measures_has_a_definition(study: Any) -> None:
    for panel in (panel for figure in study.figures for panel in figure.panels if panel.kind == "lines"):
        metric(panel.metric)
    for contrast in study.contrasts:
        assert contrast.metric in CLOCKS or metric(contrast.metric)


@pytest.mark.parametrize("study", NOT_RUN, ids=lambda study: study.name)
def test_what_a_study_declares_is_among_its_cells(study: Any) -> None:
    """Facts that a table, contrast or figure selects by are swept to these values, or are known facts of a cell."""
    swept: dict[str, list[Any]] = {}
    whose = composed(study.name).study  # several experiments may fill one study's folder
    for cfg in (composed(name) for name in (study.name, *(n for n in NAMES if composed(n).study == whose))):
        for key, values in cfg.hydra.sweeper.params.items():
            swept.setdefault(key, [OmegaConf.select(cfg, key)]).extend(_plain(v) for v in str(values).split(","))
    fixed = dict(dotted(OmegaConf.to_container(composed(study.name), resolve=False)))  # type: ignore[arg-type]
    short = {"fraction": "strategy.fraction", "budget_bits": "strategy.budget_bits", "requantize": "strategy.requantize"}
    asked = [{**t.where, **row, **chosen} for t in study.tables for row in t.rows.values() for chosen in combinations(t.each | t.across)]
    asked += [{**t.where, **column, **chosen} for t in study.tables for column in t.columns.values() for chosen in combinations(t.each)]
    asked += [{**c.where, **side, **chosen} for c in study.contrasts for side in (c.a, c.b) for chosen in combinations(c.each)]
    for panel in (panel for figure in study.figures for panel in figure.panels):
        asked += [{**panel.where, **line, panel.x.fact: x} for line in panel.lines.values() for x in panel.x.values]
    for where in asked:
        for key, value in where.items():
            known = swept.get(short.get(key, key))
            if known is not None and key != "strategy":
                assert value in known, f"{study.name}: {key}={value} is not swept; it has {known}"
            assert known is not None or key in fixed or key in HELD | {"strategy", "entrant", "donor", "question"}, key


def _plain(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def test_claims_ask_for_what_exists() -> None:
    named = {
        s.name: {filled(spec.name, chosen) for spec in s.contrasts for chosen in combinations(spec.each)} for s in studies(EXPERIMENTS)
    }
    for claim in claims(EXPERIMENTS):
        for measure in claim.measures:
            metric(measure.metric)
            assert not measure.contrast or measure.contrast in named[claim.study]
        for words in claim.verdict.values():
            words.format(*["x"] * len(claim.measures), least="x", matching="x")
