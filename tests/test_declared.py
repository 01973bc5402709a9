"""What a study's README, figures and claims select is what its command makes: one cell each, but for training seeds and random draws."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from synthetic import parts_of

from analysis.cells import _SHORT, _is, dotted
from analysis.declared import Declared, claims, combinations, filled, studies
from avpbench.composer import Composer
from avpbench.config import CONF
from avpbench.grid import grid

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
SCRIPTED = [study for study in studies(EXPERIMENTS) if not study.optional and "run.sh" in study.command]
_STUB = """#!/bin/bash
if [ "$1" = -m ]; then shift 2; (IFS=$'\\x1f'; printf '%s\\n' "$*") >> "$TOLD"; else echo 100; fi
"""
Facts = dict[str, Any]


def commands(study: Declared, folder: Path) -> list[list[str]]:
    """The overrides of every avpbench call of a study's command, which a stub of python writes down."""
    (folder / "python").write_text(_STUB)
    (folder / "python").chmod(0o755)
    told = folder / "told"
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(told)}
    subprocess.run(["bash", "-ec", study.command], cwd=ROOT, env=env, check=True)
    return [[word for word in line.split("\x1f") if word != "-m"] for line in told.read_text().splitlines()]


def swept(words: list[str]) -> list[str]:
    """With what the experiment's YAML sweeps, where the command does not say otherwise."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[w for w in words if w.startswith("experiment=")], return_hydra_config=True)
    given = {word.partition("=")[0] for word in words}
    return [*(f"{key}={values}" for key, values in (cfg.hydra.sweeper.params or {}).items() if key not in given), *words]


def cells(study: Declared, folder: Path) -> list[Facts]:
    """The facts that the records of the study's cells would have."""
    parser, composer, found = OverridesParser.create(), Composer(), {}
    for words in commands(study, folder):
        for cell in grid(parser.parse_overrides(swept(words)), composer).cells:
            config = dict(dotted(cell.values))
            facts = config | {short: config.get(key) for short, key in _SHORT.items()}
            link = str(config["link._target_"]).split(".")[-2]
            also = {"model": config["model.name"], "link": link, "study": study.name, "_words": " ".join(cell.words)}
            before = found.get(cell.identity.hash, {})
            also |= {
                f"_{phase}": config["limit"] if config[f"{phase}.enabled"] else before.get(f"_{phase}") for phase in ("quality", "fidelity")
            }
            found[cell.identity.hash] = facts | parts_of(cell.values) | also | ({"strategy": "single"} if config["chain"] == 1 else {})
    return list(found.values())


def selections(study: Declared) -> Iterator[tuple[str, Facts]]:
    """Whatever is asked for, and where."""
    for table in study.tables:
        columns = table.columns or {"": {}}
        for chosen, (label, row), column in itertools.product(
            combinations(table.each | table.across), table.rows.items(), columns.values()
        ):
            yield f"{table.name}, {label}", {**table.where, **chosen, **row, **column}
    for contrast in study.contrasts:
        for chosen, side in itertools.product(combinations(contrast.each), (contrast.a, contrast.b)):
            where = {**contrast.where, **chosen}
            yield contrast.name, where | {key: filled(value, where) if isinstance(value, str) else value for key, value in side.items()}
    for figure, panel in ((one, panel) for one in study.figures for panel in one.panels):
        for label, line in (panel.lines | panel.levels).items():
            for x in panel.x.values if label in panel.lines else [None]:
                at = {panel.x.fact: x} if label in panel.lines else {}
                yield f"{figure.name}, {panel.title}, {label}", {**panel.where, **at, **line}
                if panel.against is not None and at:
                    yield f"{figure.name}, {panel.title}, {label} (against)", {**panel.where, **at, **line, **panel.against}
    for claim in (one for one in claims(EXPERIMENTS) if study.name in (one.study, one.instead) and one.needs != "real"):
        for measure in claim.measures:
            for chosen, side in itertools.product(combinations(measure.line | claim.least), (measure.cells, measure.against)):
                if side is not None:
                    yield f"{claim.claim}: {measure.label}", {**side, **chosen}


@pytest.mark.parametrize("study", SCRIPTED, ids=lambda study: study.name)
def test_every_selection_is_one_cell_that_the_command_makes(study: Declared, tmp_path: Path) -> None:
    made, wrong = cells(study, tmp_path), []
    for what, where in selections(study):
        wanted = {key: value for key, value in where.items() if key != "entrant"}
        found = [facts for facts in made if all(_is(facts.get(key), value) for key, value in wanted.items())]
        if not found:
            wrong.append(f"no cell: {what}: {wanted}")
        elif len({(facts.get("variant"), facts.get("draw")) for facts in found}) != len(found):
            wrong.append(f"{len(found)} cells: {what}: {wanted}: {[facts['_words'] for facts in found[:3]]}")
        variants = where.get("variant")
        if isinstance(variants, list) and (absent := set(variants) - {facts["variant"] for facts in found}):
            wrong.append(f"no variant {absent}: {what}: {wanted}")
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def compared(study: Declared) -> Iterator[tuple[str, str, Facts, Facts]]:
    """Whatever is held against something else, problem by problem, and by which metric."""
    for contrast in study.contrasts:
        for chosen in combinations(contrast.each):
            where = {**contrast.where, **chosen}
            a, b = ({k: filled(v, where) if isinstance(v, str) else v for k, v in side.items()} for side in (contrast.a, contrast.b))
            yield contrast.name, contrast.metric, where | a, where | b
    for table in (one for one in study.tables if one.kind == "strategies"):
        for chosen, (label, row) in itertools.product(combinations(table.each), table.rows.items()):
            where = {**table.where, **chosen}
            for base in ("raw", "text"):
                if base in table.rows:
                    yield f"{table.name}, {label} and {base}", "accuracy", where | row, where | table.rows[base]
    for figure, panel in ((one, panel) for one in study.figures for panel in one.panels):
        for line, x in itertools.product(panel.lines.values() if panel.against else [], panel.x.values):
            where = {**panel.where, panel.x.fact: x, **line}
            yield f"{figure.name}, {panel.title}", panel.metric, where, where | (panel.against or {})


@pytest.mark.parametrize("study", SCRIPTED, ids=lambda study: study.name)
def test_what_is_compared_has_the_same_problems(study: Declared, tmp_path: Path) -> None:
    made, wrong = cells(study, tmp_path), []
    for what, metric, *sides in compared(study):
        phase = "_fidelity" if metric.startswith("kl") else "_quality"
        limits = [{f[phase] for f in made if all(_is(f.get(k), v) for k, v in side.items() if k != "entrant")} for side in sides]
        if limits[0] != limits[1] and {None} not in limits:
            wrong.append(f"{what}: {limits}: {sides}")
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def test_claims_of_real_weights_select_one_cell_a_side(tmp_path: Path) -> None:
    declared = {study.name: study for study in studies(EXPERIMENTS)}
    wanted = [claim for claim in claims(EXPERIMENTS) if claim.needs == "real"]
    assert wanted
    for claim in wanted:
        own = max((name for name in declared if claim.study.startswith(name)), key=len)
        chosen = f"STUDY={claim.study} " if own != claim.study else ""  # of a study whose tables are of other models
        made = cells(replace(declared[own], name=claim.study, command=chosen + declared[own].command), tmp_path)
        for side in (side for measure in claim.measures for side in (measure.cells, measure.against) if side is not None):
            assert len([facts for facts in made if all(_is(facts.get(key), value) for key, value in side.items())]) == 1, side
