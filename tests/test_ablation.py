"""The ablation's own parts: one factor off at a time, and the tables of controllers and codecs from made-up records."""

from __future__ import annotations

import importlib.util
import itertools
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from synthetic import write_run

from analysis import contrasts, controllers, crossed, quality
from analysis.cells import Cell, cells_of, dotted
from analysis.declared import ContrastSpec, Declared, TableSpec, studies
from analysis.estimates import point_of
from analysis.studies import load_runs
from analysis.tables import Table
from avpbench import run
from avpbench.composer import Composer
from avpbench.config import compose, plain
from avpbench.errors import ConfigError
from avpbench.grid import grid
from avpbench.hints import check

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FULL = "controller_ablation_factors"


@pytest.fixture(scope="module")
def factors() -> ModuleType:
    spec = importlib.util.spec_from_file_location("factors", EXPERIMENTS / FULL / "factors.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["factors"] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


def flat(*words: str) -> dict[str, Any]:
    return dict(dotted(plain(compose(words))))


def test_every_variant_differs_from_the_full_one_in_its_factor_alone(factors: ModuleType) -> None:
    full = flat(f"experiment={FULL}")
    found = factors.variants(plain(compose([f"experiment={FULL}"])))
    assert found[0].words == []
    assert [v.name for v in found[1:]] == [
        "controller", "codec", "sinks", "recent", "requantize", "key_bias", "keys_step", "layer_steps",
        "codec_group",
    ]  # fmt: skip
    for variant in found[1:]:
        ((key, _),) = variant.changes
        changed = flat(f"experiment={FULL}", *variant.words)
        differing = {k for k in full.keys() | changed.keys() if full.get(k) != changed.get(k)}
        assert differing, variant
        assert all(k.startswith(key.replace("/", ".")) for k in differing), (variant, differing)


def test_every_field_of_a_quantized_strategy_is_a_factor_or_shared(factors: ModuleType) -> None:
    """A switch that is added to the strategy must be named in the generator."""
    fields = plain(compose(["strategy=quantized"]))["strategy"].keys() - {"_target_"}
    named = {key.replace("/", ".").split(".")[1] for key in (*factors.OFF, *factors.FIXED)}
    assert fields == named


def test_what_is_off_already_makes_no_variant(factors: ModuleType) -> None:
    words = ["strategy=uniform", "strategy.sinks=0", "strategy.recent=0", "strategy.key_bias=false", "strategy.codec.group=1024"]
    assert [v.name for v in factors.variants(plain(compose(words)))[1:]] == ["requantize"]
    with pytest.raises(ConfigError, match="nothing is on"):
        factors.variants(plain(compose(["strategy=raw"])))


def test_the_variants_are_one_multirun(factors: ModuleType, tmp_path: Path) -> None:
    """Written as choices, the grid's cells are those of the lists of overrides."""
    found = factors.variants(plain(compose([f"experiment={FULL}"])))
    command = shlex.split(factors.write(found, [f"experiment={FULL}", "chain=2"], tmp_path))
    assert command[:6] == ["python", "-m", "avpbench", "-m", "--config-dir", str(tmp_path)]
    check(command[3:])
    parser = OverridesParser.create()
    cells = grid(parser.parse_overrides(command[6:]), Composer([f"hydra.searchpath=[file://{tmp_path}]"], [tmp_path])).cells
    composer = Composer()
    lists = [[f"experiment={FULL}", "chain=2", *variant.words] for variant in found]
    wanted = [grid(parser.parse_overrides(words), composer).cells[0].identity.hash for words in lists]
    assert [cell.identity.hash for cell in cells] == wanted
    assert len(set(wanted)) == len(found)


def test_the_study_has_a_row_for_every_variant(factors: ModuleType) -> None:
    study = next(s for s in studies(EXPERIMENTS) if s.name == FULL)
    (table,) = study.tables
    names = {"codec": "strategy.codec._target_", "controller": "strategy.controller._target_"}
    for variant in factors.variants(plain(compose([f"experiment={FULL}"]))):
        facts = flat(f"experiment={FULL}", *variant.words)
        facts |= {key: facts[path].split(".")[-2] for key, path in names.items()}
        facts |= {"requantize": facts["strategy.requantize"], "variant": facts["model.variant"]}
        matching = [label for label, row in table.rows.items() if all(facts[k] == v for k, v in {**table.where, **row}.items())]
        assert len(matching) == 1, (variant, matching)


def test_the_script_prints_a_line_a_variant(factors: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert factors.main([f"experiment={FULL}", "chain=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"experiment={FULL} chain=2"
    assert lines[3].endswith("strategy.sinks=0")
    assert lines[8].endswith("strategy.layer_steps=even")
    assert factors.main(["strategy=adaptive", "--write", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip().endswith("+without=nothing,controller,sinks,recent,requantize,key_bias,codec_group")
    assert factors.main(["strategy=raw"]) == 1
    assert "nothing is on" in capsys.readouterr().err


BASE = ("study=t", "chain=4", "strategy=quantized")
KL = {"uniform": 0.4, "snapkv": 0.2, "inverse(snapkv)": 0.6, "oracle": 0.1}


def controlled(root: Path, draws: int = 8) -> list[Path]:
    """Runs of four controllers at 3 bits and of snapkv's permutation, whose KL is 0.3 on average over draws."""
    made = []
    for name, mean in KL.items():
        words = [*BASE, f"strategy/controller={name.split('(')[0]}", "strategy.budget_bits=3"]
        if name == "oracle":
            words += ["quality=off", "latency=off"]
        made.append(
            write_run(root, words, kl=lambda k, m=mean: m + 0.01 * (k % 5) + 0.001 * (k % 3), right=lambda k, m=mean: k % 10 >= 10 * m)
        )  # type: ignore[misc]
    for seed in range(draws):
        words = [*BASE, "strategy/controller=random", f"strategy.controller.seed={seed}", "strategy.budget_bits=3"]
        made.append(write_run(root, words, kl=lambda k, s=seed: 0.3 + 0.02 * (s - 3.5) + 0.01 * (k % 4)))  # type: ignore[misc]
    return made


def fields(table: Table) -> dict[str, dict[str, str]]:
    return {row[0].text: dict(zip(table.header, (e.text for e in row), strict=True)) for row in table.rows}


ROWS = {
    "uniform": {"controller": "uniform"},
    "snapkv": {"controller": "snapkv"},
    "random snapkv": {"controller": "random(snapkv,*)"},
    "inverse(snapkv)": {"controller": "inverse(snapkv)"},
    "oracle": {"controller": "oracle"},
}


def test_controllers_stand_against_uniform_their_permutation_and_the_oracle(tmp_path: Path) -> None:
    cells = cells_of(load_runs(controlled(tmp_path)))
    (table,) = controllers.tables(TableSpec("T3", "controllers", "{budget_bits} bits", ROWS, each={"budget_bits": [3]}), cells, {}, "run")
    found = fields(table)
    assert found["snapkv"]["KL - uniform"].startswith("-0.2 [-0.2, -0.2]")
    assert found["snapkv"]["MDD"] != "-"
    its_random = 0.2 + 0.02 + 0.001 * 39 / 40 - 0.3 - 0.015
    assert float(found["snapkv"]["KL - its random"].split()[0]) == pytest.approx(its_random, rel=2e-3)
    assert float(found["snapkv"]["share of gap"].split("%")[0]) == pytest.approx(100 * its_random / (its_random - 0.1), rel=1e-2)
    assert found["inverse(snapkv)"]["KL - uniform"].startswith("0.2 [")
    assert found["snapkv"]["accuracy - uniform (points)"].startswith("+20.0 [")
    assert (found["random snapkv"]["n of KL"], found["random snapkv"]["n of accuracy"]) == ("40", "40")
    assert "draws" not in " ".join(table.told())
    assert found["uniform"]["KL - uniform"] == "-"


def test_codecs_stand_against_the_first_of_them(tmp_path: Path) -> None:
    made = []
    for codec, mean in {"affine": 0.2, "hadamard": 0.1, "kivi": 0.05}.items():
        words = [*BASE, f"strategy/codec={codec}", "strategy/controller=uniform", "strategy.budget_bits=3"]
        made.append(write_run(tmp_path, words, kl=lambda k, m=mean: m + 0.01 * (k % 5)))  # type: ignore[misc]
    spec = TableSpec("T3", "controllers", "t", {name: {"codec": name} for name in ("affine", "hadamard", "kivi")})
    (table,) = controllers.tables(spec, cells_of(load_runs(made)), {}, "run")
    assert table.header[0] == "codec"
    assert fields(table)["hadamard"]["KL - affine"].startswith("-0.1 [")
    assert "no random permutation" in " ".join(table.told())
    (without,) = controllers.tables(spec, cells_of(load_runs(made[1:])), {}, "run")
    assert [row["KL - affine"] for row in fields(without).values()] == ["-", "-"]


def test_too_few_draws_are_no_control(tmp_path: Path) -> None:
    cells = cells_of(load_runs(controlled(tmp_path, draws=7)))
    (table,) = controllers.tables(TableSpec("T3", "controllers", "t", ROWS), cells, {}, "run")
    told = " ".join(table.told())
    assert "missing: random snapkv (controller=random(snapkv,*)): 7 of 8 draws in training seed 0; run: run" in told
    assert "random snapkv" not in fields(table)
    one = point_of(cells, "one", {"controller": "random(snapkv,*)", "draw": 3})
    assert len(one.cells) == 1


def test_a_codec_s_gain_is_not_a_controller_s(tmp_path: Path) -> None:
    made = []
    for (codec, better), (controller, gain) in itertools.product(
        {"affine": 0.0, "hadamard": 0.15}.items(), {"uniform": 0.0, "snapkv": 0.05}.items()
    ):
        words = [*BASE, f"strategy/codec={codec}", f"strategy/controller={controller}", "strategy.budget_bits=3"]
        made.append(write_run(tmp_path, words, kl=lambda k, v=0.4 - better - gain: v + 0.01 * (k % 3)))  # type: ignore[misc]
    columns = {name: {"controller": name} for name in ("uniform", "snapkv")}
    rows = {name: {"codec": name} for name in ("affine", "hadamard", "kivi")}
    (table,) = crossed.tables(TableSpec("x", "crossed", "t", rows, columns=columns), cells_of(load_runs(made)), {}, "this command")
    found = fields(table)
    assert table.header == ["codec", "n", "true bits", "uniform", "snapkv", "snapkv - uniform", "MDD"]
    assert {name: row["snapkv - uniform"].split()[0] for name, row in found.items()} == {"affine": "-0.05", "hadamard": "-0.05"}
    assert found["affine"]["uniform"].startswith("0.409")
    assert found["hadamard"]["uniform"].startswith("0.259")
    assert any(note.startswith("missing: every row (codec=kivi)") and "this command" in note for note in table.told())


def test_contrasts_fill_in_whose_permutation_is_meant(tmp_path: Path) -> None:
    cells = cells_of(load_runs(controlled(tmp_path)))
    for cell in cells:
        cell.facts["study"] = "t"
    spec = ContrastSpec(
        "{controller} against its permutation", "kl", {}, {"controller": "random({controller},*)"}, "less", each={"controller": ["snapkv"]}
    )
    study = Declared("t", "t", "t", "?", "run", [], [spec], [])
    (row,) = contrasts.table(study, cells).rows
    assert [row[0].text, row[-1].text] == ["snapkv against its permutation", "holds, in 1 training seed"]


def test_accuracy_of_few_problems_and_kl_of_all(tmp_path: Path) -> None:
    """As the study's commands go: the summary counts both, and what the fidelity phase alone handed over has its true bits."""
    words = ["strategy=uniform", "strategy.budget_bits=5", "chain=2", "max_agent_tokens=8", "max_new_tokens=8", "latency=off", "gates=off"]
    words += ["tracker=console", f"results={tmp_path}"]
    run(*words, "limit=2")
    summary = run(*words, "limit=3", "quality=off", "fidelity=on")
    assert (summary.quality.num_samples, summary.fidelity.num_scored) == (2, 3)
    assert summary.fidelity.scored_bits is not None
    assert 4.8 < summary.fidelity.scored_bits <= 5
    (cell,) = cells_of(load_runs([p.parent for p in tmp_path.glob("*/*/summary.json")]))
    assert (len(cell.samples), len(cell.fidelity)) == (2, 3)
    alone = Cell(cell.study, cell.hash, cell.facts, cell.meta, cell.samples.head(0)[[]], cell.latency, cell.fidelity, None)
    assert quality.values(alone, "mean_bits").mean() == pytest.approx(summary.fidelity.scored_bits)
