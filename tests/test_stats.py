"""Statistics against worked examples from the literature, and packed studies against their runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.errors import MismatchedSamples
from analysis.publish import KINDS, Unfinished, publish
from analysis.stats import bootstrap, difference, holm, mcnemar, mean_ratio, paired, sign_flips, tango
from analysis.studies import load, load_runs
from avpbench import run


@pytest.mark.parametrize(
    ("only_b", "only_a", "count", "low", "high"),
    [(12, 2, 50, 0.0611, 0.3447), (0, 0, 10, -0.2775, 0.2775), (1, 1, 10, -0.3422, 0.3422), (10, 0, 10, 0.4449, 1.0)],
)
def test_tango_s_interval(only_b: int, only_a: int, count: int, low: float, high: float) -> None:
    """12 and 2 of 50: Tango (1998); 0 of 10: z^2 / (n + z^2) in closed form; the others invert the same score by symmetry."""
    assert tango(only_b, only_a, count) == pytest.approx((low, high), abs=1e-4)
    assert tango(only_a, only_b, count) == pytest.approx((-high, -low), abs=1e-4)


def test_tango_covers() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        b, c, _ = rng.multinomial(150, [0.12, 0.05, 0.83])
        low, high = tango(int(b), int(c), 150)
        hits += low <= 0.07 <= high
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(("a", "b", "p"), [(5, 15, 0.0414), (0, 0, 1.0), (3, 3, 1.0), (1, 9, 0.0215)])
def test_mcnemar_is_the_binomial_test(a: int, b: int, p: float) -> None:
    assert mcnemar(a, b) == pytest.approx(p, abs=1e-4)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == pytest.approx({"a": 1.0, "b": 1.0})


@pytest.mark.parametrize("number", [8, 60])
def test_sign_flips_are_two_sided(number: int) -> None:
    """All flips of few, drawn ones of many: the same p of either sign, near the t test's for values that are nearly normal."""
    values = np.random.default_rng(3).normal(0.3, 1.0, number)
    p = sign_flips(values)
    assert p == pytest.approx(sign_flips(-values), rel=0.25)
    assert p == pytest.approx(float(stats.ttest_1samp(values, 0).pvalue), rel=0.25)
    assert 0.001 < p < 0.9


def test_a_difference_says_what_it_could_have_seen() -> None:
    found = difference([(True, True)] * 80 + [(True, False)] * 4 + [(False, True)] * 16)
    assert (found.num, found.only_a, found.only_b) == (100, 4, 16)
    assert found.effect == pytest.approx(0.12)
    assert found.low < 0.12 < found.high
    assert found.detectable == pytest.approx(2.8 * (0.2 / 100) ** 0.5)


def test_pairs_are_by_id_and_complete() -> None:
    assert paired({"b": 1, "a": 2}, {"a": 3, "b": 4}) == [(2, 3), (1, 4)]
    with pytest.raises(MismatchedSamples, match=r"only in the first: \['a'\]"):
        paired({"a": 1}, {"b": 1})


def test_bootstraps_cover_and_are_seeded() -> None:
    rng = np.random.default_rng(1)
    groups = [list(rng.normal(3 + shift, 1, 40)) for shift in (-0.2, 0.0, 0.2)]
    low, high = bootstrap(groups, draws=2000)
    assert low < np.mean([np.mean(g) for g in groups]) < high
    assert (low, high) == bootstrap(groups, draws=2000)
    few, many = [10.0, 10.0], [0.0] * 98
    assert bootstrap([few, many])[1] == 10.0
    assert bootstrap([few, many], by_size=True)[1] == 10.0  # twice the process of two blocks
    assert bootstrap([few, many, many, many], by_size=True)[1] < 1 < bootstrap([few, many, many, many])[1]
    assert high - low > 2 * 1.96 / np.sqrt(120), "what differs between groups widens it"
    values = rng.normal(2, 1, 500)
    assert mean_ratio([np.stack([values * 3, values], axis=1)], draws=500) == pytest.approx((3, 3, 3))
    ones = np.ones(500)
    centre, low, high = mean_ratio([np.stack([values, ones], axis=1)], draws=2000)
    assert (centre, low, high) == pytest.approx((values.mean(), values.mean() - 0.088, values.mean() + 0.088), abs=0.03)
    _, low, high = mean_ratio([np.stack([share * ones, ones], axis=1) for share in (0.25, 0.5, 0.75)])
    assert (low, high) == pytest.approx((0.25, 0.75), abs=0.09), "groups are resampled, however sure each of them is"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for strategy in ("raw", "text"):
        words = ("tracker=console", "chain=2", "max_agent_tokens=12", "max_new_tokens=16", "latency.repeats=1", "limit=4", "study=trial")
        run(f"strategy={strategy}", f"results={tmp_path}", *words)
    return tmp_path


def test_a_published_study_holds_what_its_runs_hold(runs: Path, tmp_path: Path) -> None:
    out = publish("trial", runs, tmp_path / "published")
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    assert {p.name: p.read_bytes() for p in publish("trial", runs, tmp_path / "published").iterdir()} == first
    study, direct = load("trial", tmp_path / "published"), load_runs(sorted((runs / "trial").iterdir()))
    counts = {name: one.pop("records") for name, one in study.cells.items()}
    assert study.cells == direct.cells
    assert counts == {
        name: {kind: int((getattr(direct, kind).cell == name).sum()) if len(getattr(direct, kind)) else 0 for kind in KINDS}
        for name in direct.cells
    }
    assert len(study.samples) == 8
    assert study.samples.groupby("cell").correct.mean().to_dict() == {c: one["summary"]["accuracy"] for c, one in study.cells.items()}
    hops = json.loads(study.samples.hops[0])
    assert hops[0]["wire_bytes"] > 0
    assert len(study.latency) == len(direct.latency) > 0


def test_an_unfinished_study_is_refused(runs: Path, tmp_path: Path) -> None:
    next((runs / "trial").glob("*raw*/summary.json")).unlink()
    with pytest.raises(Unfinished, match="1 runs of trial are not finished"):
        publish("trial", runs, tmp_path / "published")
    assert len(json.loads((publish("trial", runs, tmp_path / "published", some=True) / "cells.json").read_text())) == 1
    with pytest.raises(Unfinished, match="no finished run"):
        publish("other", runs, tmp_path / "published")
    with pytest.raises(FileNotFoundError, match=r"no study 'other'.*there are trial"):
        load("other", tmp_path / "published")


def test_analysis_never_imports_torch() -> None:
    code = "import sys, analysis.studies, analysis.stats, analysis.__main__; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
