"""Numbers by hand: what a table prints is what docs/metrics.md defines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import WORK, write_run

from analysis import divergences, lines, paying, quality, timing, timings
from analysis.cells import Cell, cells_of
from analysis.claims import table as claims_table
from analysis.declared import Claim, Measure, TableSpec
from analysis.errors import MismatchedSamples, Missing, NotMeasured, Refused
from analysis.estimates import Point, number, point_of
from analysis.metrics import METRICS, metric
from analysis.runs import report
from analysis.stats import bootstrap, sign_flips
from analysis.studies import Study, load_runs

RAW, TEXT = ("study=t", "chain=2", "strategy=raw"), ("study=t", "chain=2", "strategy=text")
ADAPTIVE = ("study=t", "chain=2", "strategy=adaptive")


def cells(*folders: Path) -> list[Cell]:
    by_folder = {c.facts["folder"]: c for c in cells_of(load_runs(folders))}
    return [by_folder[f.name] for f in folders]


def point(*folders: Path, entrant: str = "") -> Point:
    found = cells(*folders)
    return Point(found[0].label, tuple(found), entrant or found[0].label)


def rerun(made: Point, log_ratios: Mapping[tuple[str, int], float]) -> Point:
    """The point with A/A's second run of the named (process, block) so far off in log ratio, and no other second run."""
    frame = made.first.latency
    keys = pd.MultiIndex.from_frame(frame[["process", "block"]])
    frame = frame[~frame.aa | keys.isin(log_ratios)].copy()
    first = frame[~frame.aa & (frame.strategy == made.first.label)].groupby(["process", "block", "clock"])["seconds"].mean()
    second = frame.aa
    frame.loc[second, "seconds"] = [
        first[process, block, clock] * math.exp(log_ratios[process, block])
        for process, block, clock in frame[second][["process", "block", "clock"]].itertuples(index=False)
    ]
    return replace(made, cells=(replace(made.first, latency=frame),))


def unsound(made: Point) -> Point:
    """The point with second runs that are 5% slower in half of the blocks."""
    return rerun(made, {(f"p{k // 4}", k): 0.05 * (k % 2) for k in range(20)})


def test_savings_are_one_minus_a_ratio_of_means(tmp_path: Path) -> None:
    raw, text = point(write_run(tmp_path, RAW, prefilled=30)), point(write_run(tmp_path, TEXT, prefilled=60))
    assert metric("s_prompt").compute(raw, text).value == pytest.approx(0.5)
    assert metric("s_forward").compute(raw, text).value == pytest.approx(1 - 50 / 80)
    said = 2 * 20 * WORK.head_flop
    flop = [WORK.token_flop * 2 * new + WORK.attention_flop * new * (0 + new / 2 + 40 + new / 2) + said for new in (50, 80)]
    assert metric("s_flop").compute(raw, text).value == pytest.approx(1 - flop[0] / flop[1])
    with pytest.raises(Refused, match="name what it is against"):
        metric("s_prompt").compute(raw, None)


def test_a_saving_needs_the_same_problems(tmp_path: Path) -> None:
    with pytest.raises(MismatchedSamples, match="30 and 40 samples"):
        quality.saving(point(write_run(tmp_path, RAW, num=30)), point(write_run(tmp_path, TEXT)), "s_prompt")


def test_a_contrast_of_kl_is_the_mean_difference(tmp_path: Path) -> None:
    ours = point(write_run(tmp_path, ADAPTIVE, kl=lambda k: 0.1 + 0.01 * (k % 3)))
    other = point(write_run(tmp_path, (*ADAPTIVE, "strategy/controller=uniform"), kl=lambda k: 0.2 + 0.01 * (k % 5)))
    changes = np.array([0.01 * (k % 3) - 0.1 - 0.01 * (k % 5) for k in range(40)])
    found = quality.contrast(ours, other, "kl")
    assert found.effect.value == pytest.approx(changes.mean())
    assert found.detectable == pytest.approx(2.8 * changes.std(ddof=1) / math.sqrt(40))
    assert found.effect.low is not None
    assert found.effect.low < changes.mean() < 0
    assert found.p < 0.001
    assert quality.contrast(ours, ours, "kl").p == 1.0


def test_training_seeds_are_pooled_and_told_apart(tmp_path: Path) -> None:
    def one(variant: int, strategy: str, shift: float) -> Path:
        words = ("study=t", "chain=2", f"strategy={strategy}", f"+model.x={variant}")
        folder = write_run(tmp_path, words, kl=lambda k: 0.1 + shift + 0.001 * k, identity={"weights": [f"w{variant}"]})
        meta = json.loads((folder / "meta.json").read_text())
        meta["config"]["model"]["variant"] = variant
        (folder / "meta.json").write_text(json.dumps(meta))
        return folder

    ours = point(*(one(v, "adaptive", 0.1 * v) for v in range(3)))
    other = point(*(one(v, "uniform", 0.1) for v in range(3)))
    found = quality.contrast(ours, other, "kl")
    assert found.by_seed == pytest.approx((-0.1, 0.0, 0.1))
    assert found.effect.value == pytest.approx(0.0)
    low, high = found.effect.low, found.effect.high
    assert low is not None
    assert high is not None
    assert high - low > 0.1, "seeds that disagree make a wide interval"
    with pytest.raises(Refused, match="training seeds"):
        quality.contrast(Point("x", ours.cells[:2], "x"), other, "kl")
    everything = [*ours.cells, *other.cells]
    assert len(point_of(everything, "a", {"controller": "snapkv"}).cells) == 3
    with pytest.raises(Missing, match=r"variant 7.*run: this"):
        point_of(everything, "a", {"controller": "snapkv", "variant": [0, 7]}, run="this")
    with pytest.raises(Refused, match="6 cells match"):
        point_of(everything, "a", {"strategy": "quantized"})
    with pytest.raises(Refused, match="timings of 3 training seeds are not pooled"):
        timing.seconds(ours, "host")


def test_random_draws_are_averaged_by_problem(tmp_path: Path) -> None:
    words = [(*ADAPTIVE, "strategy/controller=random", f"strategy.controller.seed={s}") for s in range(2)]
    drawn = point(*(write_run(tmp_path, w, kl=lambda k, s=s: 0.05 + 0.1 * s + 0.01 * k) for s, w in enumerate(words)))  # type: ignore[misc]
    assert quality.average(drawn, "kl").value == pytest.approx(0.1 + 0.01 * 19.5)
    assert quality.average(drawn, "kl").num == 40
    ours = point(write_run(tmp_path, ADAPTIVE, kl=lambda k: 0.05 + 0.01 * k))
    best = point(write_run(tmp_path, (*ADAPTIVE, "strategy/controller=oracle", "quality=off", "latency=off"), kl=lambda k: 0.01 * k))
    assert quality.share_of_gap(ours, drawn, best).value == pytest.approx(0.5)
    with pytest.raises(Refused, match="cannot be told apart"):
        quality.share_of_gap(ours, drawn, drawn)
    with pytest.raises(Refused, match="random draws"):
        quality.contrast(Point("d", (*drawn.cells, *ours.cells), "d"), ours, "accuracy") if _half(drawn, ours) else None


def _half(drawn: Point, ours: Point) -> bool:
    """Makes one cell's accuracy differ, so that the average over draws is no yes or no."""
    ours.cells[0].samples["correct"] = ~ours.cells[0].samples["correct"]
    return True


def timed(root: Path, entrants: Mapping[str, float] | None = None, **changes: object) -> Path:
    return write_run(root, RAW, 8, entrants=entrants or {"raw": 0.01, "reprefill": 0.08}, **changes)  # type: ignore[arg-type]


def test_what_lies_between_the_agents_and_how_prompts_grow(tmp_path: Path) -> None:
    raw, text = point(write_run(tmp_path, RAW, prefilled=30)), point(write_run(tmp_path, TEXT, prefilled=60))
    assert metric("held_bytes").compute(raw, None).value == 4096 * 60  # the first agent's K/V
    assert metric("hop_bytes").compute(raw, None).value == 5000
    assert metric("cached_tokens").compute(raw, None).value == 40
    assert metric("prompt_growth").compute(raw, None).value == 1
    path = text.cells[0].facts["folder"]
    rows = [json.loads(line) for line in (tmp_path / "t" / path / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        row["hops"][0]["num_values"] = None
        row["turns"][0] |= {"said": "twelve bütes", "prefilled_tokens": 20}
    (tmp_path / "t" / path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = point(tmp_path / "t" / path)
    assert metric("held_bytes").compute(words, None).value == 13
    assert metric("prompt_growth").compute(words, None).value == 3


def test_a_line_is_of_the_problems_that_all_have(tmp_path: Path) -> None:
    few, many = (point(write_run(tmp_path / str(num), RAW, num=num, right=lambda k: k < 3)) for num in (3, 10))
    assert lines._means([few, many], "accuracy") == ([1.0, 1.0], 3)
    with pytest.raises(Refused, match="no problem in common"):
        lines._means([few, replace(many, cells=(replace(many.first, samples=many.first.samples.iloc[3:]),))], "accuracy")


def test_clocks_by_hand(tmp_path: Path) -> None:
    raw = point(timed(tmp_path))
    assert metric("ttft_host_s").compute(raw, None).value == pytest.approx(0.01, rel=0.05)
    assert metric("ttft_host_speedup").compute(raw, None).value == pytest.approx(8, rel=0.02)
    assert metric("ttft_host_limit_s").compute(raw, None).value == pytest.approx(0.003)
    assert metric("ttft_host_eta").compute(raw, None).value == pytest.approx(0.3, rel=0.05)
    assert metric("handoff_s").compute(raw, None).value == pytest.approx(0.014, rel=0.05)
    assert metric("prefix_tokens").compute(raw, None).value == 300
    assert set(timing.stages(raw)[0]) == {"export", "prefill"}
    ratio, p = timing.faster(raw, "host", "reprefill")
    assert ratio.value == pytest.approx(8, rel=0.02)
    assert p < 1e-6
    found = paying.break_even(raw)
    assert found.break_even == "above"
    assert found.break_even_bps == pytest.approx(8 * (10_000 - 400) / (1.4 * 0.07), rel=0.05)
    assert found.break_even_low_bps is not None
    assert found.break_even_high_bps is not None
    assert found.break_even_low_bps < found.break_even_bps < found.break_even_high_bps
    tokens = 316
    flop = WORK.token_flop * tokens + WORK.head_flop + WORK.attention_flop * tokens**2 / 2
    assert paying.achieved_flop_per_s(raw) == pytest.approx(flop / 0.064, rel=0.05)


def test_a_break_even_wants_a_lead_that_the_blocks_show(tmp_path: Path) -> None:
    """Twice as fast is a log ratio of 0.69: told where A/A is below it, either way, and not where A/A is above it or was not measured."""
    ahead = point(timed(tmp_path / "ahead", {"raw": 0.1, "reprefill": 0.2}))
    behind = point(timed(tmp_path / "behind", {"raw": 0.2, "reprefill": 0.1}))
    for one in (ahead, behind):
        assert paying.break_even(rerun(one, {(f"p{k // 4}", k): 1e-6 * (k % 2) - 0.6 for k in range(20)})).break_even
        with pytest.raises(Refused, match=r"by more than A/A's 0.75\d: no break-even"):
            paying.break_even(rerun(one, {(f"p{k // 4}", k): 1e-6 * (k % 2) - 0.75 for k in range(20)}))
    with pytest.raises(Refused, match="never timed against itself"):
        paying.break_even(point(timed(tmp_path / "alone", aa=False)))


def test_what_is_timed_says_its_batch_and_its_new_tokens(tmp_path: Path) -> None:
    one = point(timed(tmp_path)).first
    (table,) = timings.tables(TableSpec("t", "timings", "title", {"raw": {"entrant": "raw"}}), [one], {}, "run")
    assert "batch 1, last hop, s = 16" in " ".join(table.told())
    one.latency.loc[one.latency.block == 0, "new_tokens"] = 180
    assert timing.setting([one]) == "batch 1, last hop, s = 16 or 180; tiny, float32, cpu-x86_64, 1 thread"


def test_runs_of_a_block_are_one_number(tmp_path: Path) -> None:
    """raw, run three times in each block and twice as long on average, is half as fast; blocks stay what is counted and resampled."""
    path = timed(tmp_path) / "latency.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    quick = [r for r in rows if r["strategy"] == "raw" and r["clock"] in ("host", "handoff")]
    more = [r | {"order": order, "seconds": 2.5 * r["seconds"]} for r in quick for order in (5, 6)]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, *more]))
    raw = point(path.parent)
    assert timing.speedup(raw, "host").value == pytest.approx(4, rel=0.02)
    assert timing.speedup(raw, "device").value == pytest.approx(8, rel=0.02)
    assert timing.seconds(raw, "handoff").value == pytest.approx(0.028, rel=0.05)
    assert timing.seconds(raw, "host").num == 20
    assert metric("ttft_host_eta").compute(raw, None).value == pytest.approx(0.15, rel=0.05)
    assert paying.break_even(raw).break_even_bps == pytest.approx(8 * (10_000 - 400) / (1.4 * 0.06), rel=0.05)


def point_in(study: Study, name: str) -> float:
    """eta of raw in the study's cell of this name."""
    (cell,) = (cell for cell in cells_of(study) if cell.hash == name)
    return metric("ttft_host_eta").compute(Point("raw", (cell,), "raw"), None).value


def test_the_limit_is_that_of_the_best_process(tmp_path: Path) -> None:
    """Of its own length, and of longer prefixes too: what those can be done in is no less. Another dtype's is another matter."""
    settings = (("latency.prefix_tokens=300",), ("latency.prefix_tokens=600",), ("latency.prefix_tokens=600", "dtype=bfloat16"))
    paths = [
        write_run(tmp_path, (*RAW, *words), 8, entrants={"raw": 0.01, "reprefill": 0.08}, identity={"dtype": words[1:] or "float32"})
        for words in settings
    ]
    study = load_runs(paths)
    study.latency["limit_s"] = 0.003
    frame, names = study.latency, [json.loads((path / "meta.json").read_text())["cell"] for path in paths]
    usual = [point_in(study, name) for name in names]
    frame.loc[(frame.cell == names[0]) & (frame.process == "p3"), "limit_s"] /= 2
    frame.loc[(frame.cell == names[2]), "limit_s"] /= 8
    assert [point_in(study, name) / before for name, before in zip(names, usual, strict=True)] == pytest.approx([1 / 2, 1, 1 / 8])
    frame.loc[(frame.cell == names[1]) & (frame.process == "p3"), "limit_s"] /= 4
    assert [point_in(study, name) / before for name, before in zip(names, usual, strict=True)] == pytest.approx([1 / 4, 1 / 4, 1 / 8])


def test_a_table_of_times_says_how_many_blocks_and_what_differs(tmp_path: Path) -> None:
    """One block has no interval; other sources and other copy rates are noted and no reason to refuse."""
    whole = point(timed(tmp_path)).first
    alone = replace(whole, facts=whole.facts | {"seed": 1}, meta=whole.meta | {
        "identity": whole.meta["identity"] | {"code": "other"},
        "roofline": whole.meta["roofline"] | {"copy_bytes_per_s": 3 * whole.meta["roofline"]["copy_bytes_per_s"]},
    }, latency=whole.latency[whole.latency.block == 0])  # fmt: skip
    spec = TableSpec("t", "timings", "title", {"raw": {"entrant": "raw"}}, across={"seed": [0, 1]})
    (table,) = timings.tables(spec, [whole, alone], {}, "run")
    shown = {name: [row[table.header.index(name)].text for row in table.rows] for name in ("blocks", "TTFT host", "break-even")}
    assert shown["blocks"] == ["20 in 5", "1 in 1"]
    assert ["[" in text for name in ("TTFT host", "break-even") for text in shown[name]] == [True, False] * 2
    notes = " ".join(table.told())
    assert "cells of 2 versions of the source stand side by side" in notes
    assert re.search(r"copy rate that its cell's processes measured, here \d+ to \d+ GB/s: compare it within a cell", notes)
    (same,) = timings.tables(spec, [whole, replace(alone, meta=whole.meta)], {}, "run")
    assert "copy rate" not in " ".join(same.told())
    assert "versions" not in " ".join(same.told())


def test_each_length_has_a_limit_of_its_own(tmp_path: Path) -> None:
    one = point(timed(tmp_path))
    usual = metric("ttft_host_eta").compute(one, None).value
    frame = one.first.latency
    longer = frame.block % 2 == 1
    frame.loc[longer, ["seconds", "limit_s"]] *= 3
    frame.loc[longer, "prefix_tokens"] *= 3
    timing._sorted_out.cache_clear()
    assert metric("ttft_host_eta").compute(one, None).value == pytest.approx(usual, rel=0.03)
    assert metric("ttft_host_limit_s").compute(one, None).value == pytest.approx(0.003 * 2)


def test_what_the_stages_leave_unexplained_is_told(tmp_path: Path) -> None:
    spent, residual = timing.stages(point(timed(tmp_path)))
    assert set(spent) == {"export", "prefill"}
    assert abs(residual) < 0.02
    notes = " ".join(report(timed(tmp_path / "b"))[1].told())
    assert "unexplained: " in notes
    torn = point(timed(tmp_path / "c"))
    torn.first.latency["stages_s"] = '{"export": 0.'
    with pytest.raises(Refused, match="nested in a record cannot be read"):
        timing.stages(torn)


def test_latent_steps_go_through_the_head_too(tmp_path: Path) -> None:
    raw, text = point(write_run(tmp_path, RAW)), point(write_run(tmp_path, TEXT))
    before = quality.values(raw.first, "flop")
    raw.first.samples["latent_steps"] = 5
    assert (quality.values(raw.first, "flop") - before).tolist() == [5 * WORK.head_flop] * 40
    assert metric("s_flop").compute(raw, text).value == pytest.approx(-5 * WORK.head_flop / before.iloc[0])


def test_few_processes_are_said_and_widen(tmp_path: Path) -> None:
    few = timing.speedup(point(timed(tmp_path, processes=2)), "host")
    assert few.note == "2 of 5 process restarts"
    assert not timing.speedup(point(timed(tmp_path / "b")), "host").note


def test_an_unsound_a_a_publishes_no_ratio(tmp_path: Path) -> None:
    sound = timed(tmp_path)
    assert timing.speedup(point(sound), "host").value == pytest.approx(8, rel=0.02)
    with pytest.raises(Refused, match="never timed against itself"):
        timing.speedup(point(timed(tmp_path / "never", aa=False)), "host")
    with pytest.raises(Refused, match=r"A/A is unsound by the host clock \(\+0\.01.. to \+0\.03"):
        timing.speedup(unsound(point(sound)), "host")
    by_handoff = point(sound)
    frame = by_handoff.first.latency
    frame.loc[frame.aa & (frame.clock == "handoff"), "seconds"] *= 1.05
    assert timing.speedup(by_handoff, "host").value == pytest.approx(8, rel=0.02), "each clock has its own"
    with pytest.raises(Refused, match="A/A is unsound by the handoff clock"):
        timing.speedup(by_handoff, "handoff")


def test_a_a_is_of_the_records_and_knows_processes(tmp_path: Path) -> None:
    """The wider ends: processes that are each steady and differ widen the bootstrap, three blocks the t interval."""
    steady = point(timed(tmp_path))
    assert -0.01 < timing.self_ratio(steady, "host")[0] < timing.self_ratio(steady, "host")[1] < 0.01
    apart = {(f"p{p}", 4 * p + k): 0.02 * (p - 2) for p in range(5) for k in range(4)}
    by_process = timing.self_ratio(rerun(steady, apart), "host")
    assert by_process == pytest.approx(bootstrap([[0.02 * (p - 2)] * 4 for p in range(5)], by_size=True))
    ratios = [0.008, -0.004, -0.001]
    few = timing.self_ratio(rerun(steady, {("p0", k): ratio for k, ratio in enumerate(ratios)}), "host")
    assert few == pytest.approx(stats.t.interval(0.95, 2, loc=np.mean(ratios), scale=stats.sem(ratios)))


def test_a_ratio_s_p_is_of_processes_and_its_mean_of_blocks(tmp_path: Path) -> None:
    """Blocks of one process are no samples of their own; a process of many blocks weighs more in the mean."""
    raw = point(timed(tmp_path))
    frame = raw.first.latency
    kept = frame[(frame.block % 4 == 0) | (frame.process == "p0")]  # four blocks of p0, one of every other
    made = replace(raw, cells=(replace(raw.first, latency=kept),))
    found = timing.blocks(made, "host", ("raw", "reprefill"))
    ratio = np.log(found["reprefill"] / found["raw"])
    means = ratio.groupby(level="process").mean()
    estimate, p = timing.faster(made, "host", "reprefill")
    assert p == pytest.approx(float(stats.ttest_1samp(means, 0).pvalue))
    assert estimate.value == pytest.approx(math.exp(ratio.mean()))
    ends = bootstrap([group.to_numpy() for _, group in ratio.groupby(level="process")], by_size=True)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(map(math.exp, ends)))


def test_a_timed_hop_that_fell_back_to_words_is_none(tmp_path: Path) -> None:
    raw = point(timed(tmp_path))
    frame = raw.first.latency
    frame.loc[(frame.strategy == "raw") & (frame.block < 4), "fell_back"] = True
    timing._sorted_out.cache_clear()
    assert len(timing.blocks(raw, "host", ("raw", "reprefill"))) == 16


def test_the_least_that_would_have_shown_is_the_worst_seed_s(tmp_path: Path) -> None:
    sides = [
        Point(name, tuple(cells(*(write_run(tmp_path, (*words, f"model.variant={v}"), kl=kl(v), right=right(v)) for v in (0, 1)))), name)
        for name, words, kl, right in (
            ("a", ADAPTIVE, lambda v: lambda k: 0.1 + (1 + 4 * v) * (k % 5) / 1000, lambda v: lambda k: k % (2 + 6 * v) > 0),
            ("b", RAW, lambda _: lambda k: 0.1, lambda _: lambda k: True),
        )
    ]
    for name in ("kl", "accuracy"):
        apart = [quality.contrast(*(replace(side, cells=(side.cells[v],)) for side in sides), name).detectable for v in (0, 1)]
        assert apart[0] != pytest.approx(apart[1])
        assert quality.contrast(*sides, name).detectable == max(apart)


def test_on_a_gpu_a_slow_reprefill_gives_way_to_its_limit(tmp_path: Path) -> None:
    found = timing.speedup(point(timed(tmp_path, identity={"device": "NVIDIA H100"})), "host")
    assert found.value == pytest.approx(0.3 * 8, rel=0.05), "its eta is 0.3, below 0.6"
    assert re.search(r"limit of re-prefill, whose eta is 0\.(29|30)", found.note)


def test_the_floor_is_what_re_prefill_moves(tmp_path: Path) -> None:
    folder = write_run(tmp_path, ("study=t", "chain=2", "strategy=reprefill"), num=101, kl=lambda k: 0.01 * k)
    assert quality.floor(point(folder)).value == pytest.approx(0.0975)


@pytest.mark.parametrize("name", ["kl", "accuracy"])
def test_answers_mean_nothing_with_random_weights(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path, (*RAW, "model=qwen0.5b", "model.load=dummy", "task=wordmath"), kl=lambda k: 0.1)
    with pytest.raises(NotMeasured, match=f"random weights: {name} means nothing"):
        quality.average(point(folder), name)


def test_sign_flips_are_the_exact_test() -> None:
    assert sign_flips(np.array([1.0, 1.0, 1.0, 1.0, 1.0])) == pytest.approx(2 / 2**5)
    assert sign_flips(np.array([1.0, -1.0])) == 1.0
    assert sign_flips(np.zeros(5)) == 1.0


@pytest.mark.parametrize(
    ("low", "high", "needs", "verdict"),
    [
        (0.4, None, "any", "yes 50.0%, in 1 training seed"),
        (0.6, None, "any", "no 50.0%, in 1 training seed"),
        (None, 0.4, "any", "no 50.0%, in 1 training seed"),
        (0.4, None, "cuda", "cannot be tested here: it wants a GPU; on a CPU, as a direction only: 50.0% [50.0, 50.0]"),
        (0.4, None, "real", "cannot be tested here: it wants real weights"),
    ],
)
def test_verdicts_follow_their_rule(tmp_path: Path, low: float | None, high: float | None, needs: str, verdict: str) -> None:
    found = cells(write_run(tmp_path, RAW, prefilled=30), write_run(tmp_path, TEXT, prefilled=60))
    told = [replaced(cell) for cell in found]
    measures = [Measure("m", "s_prompt", {"strategy": "raw"}, {"strategy": "text"})]
    words = {"holds": "yes {0}", "fails": "no {0}", "unclear": "?"}
    shown = claims_table([Claim("c", "s", "t", "d", "x", "runs", measures, needs, words, low, high)], told, {})
    assert shown.rows[0][-1].text == verdict


def test_a_line_through_short_chains_is_held_against_the_long_one(tmp_path: Path) -> None:
    """Raw: 10 N, and 320 at 16; text: 10 N^2. Lines through 2, 3 and 4 say 160 and 876.7 at 16, a ratio of 5.48 where it is 8."""
    runs = [write_run(tmp_path, ("study=t", "strategy=raw", f"chain={n}"), prefilled=20 if n == 16 else 10) for n in (2, 3, 4, 16)]
    runs += [write_run(tmp_path, ("study=t", "strategy=text", f"chain={n}"), prefilled=10 * n) for n in (2, 3, 4, 16)]
    told = [replaced(cell) for cell in cells(*runs)]
    sides = {"cells": {"strategy": "raw", "chain": 16}, "against": {"strategy": "text", "chain": 16}}
    measures = [
        Measure("m", "ratio:prefilled_tokens", **sides),
        Measure("e", "ratio:prefilled_tokens", **sides, counts=False, line={"chain": [2, 3, 4]}),
    ]
    claim = Claim("c", "s", "t", "d", "x", "runs", measures, "any", dict.fromkeys(("holds", "fails", "unclear"), "{0}, off by {1}"), 1)
    shown = claims_table([claim], told, {})
    assert shown.rows[0][-1].text.startswith("8.00x, off by -31.5%")
    assert any("a line through 3 means of the 40 problems that all have, without an interval" in note for note in shown.told())
    wrong = Measure("e", "prefilled_tokens", {"strategy": "raw", "chain": 16}, line={"chain": [2, 3]})
    assert "a line wants a ratio:KEY" in " ".join(claims_table([replace(claim, measures=[wrong])], told, {}).told())


def test_what_attention_reads_is_told_by_hop_and_by_layer(tmp_path: Path) -> None:
    """Two hops of two layers; the second problem reads everything twice as wrong."""
    told = replaced(cells(write_run(tmp_path, ADAPTIVE, num=2, kl=lambda k: 0.1 * (k + 1)))[0])
    told.fidelity["attention_errors"] = ["[[0.1, 0.3], [0.2, 0.6]]", "[[0.2, 0.6], [0.4, 1.2]]"]
    spec = TableSpec("d", "divergences", "title", {"snapkv": {"controller": "snapkv"}, "gone": {"controller": "x"}})
    (table,) = divergences.tables(spec, [told], {"study": "runs"}, "run")
    assert table.header == ["strategy", "NLL - raw's", "changed top token", "read, hop 1", "read, hop 2", "read, layer 0", "read, layer 1"]
    assert [entry.text for entry in table.rows[0]] == [
        "snapkv", "0.015 [0.01, 0.02]", "0.0% [0.0, 0.0]", "30.0% [20.0, 40.0]", "60.0% [40.0, 80.0]", "30.0% [20.0, 40.0]",
        "90.0% [60.0, 120.0]",
    ]  # fmt: skip
    assert any(note.startswith("missing: gone") for note in table.told())
    told.fidelity["attention_errors"] = ["[[0.1, 0.3], [0.2, 0.", "[[0.2, 0.6], [0.4, 1.2]]"]
    (torn,) = divergences.tables(spec, [told], {"study": "runs"}, "run")
    assert torn.header == ["strategy", "NLL - raw's", "changed top token"]
    with pytest.raises(Refused, match="nested in a record cannot be read"):
        quality.average(Point("snapkv", (told,), "snapkv"), "attention_error:1")


def test_the_first_problem_s_time_is_no_time(tmp_path: Path) -> None:
    """It pays for kernels and allocations."""
    one = point(write_run(tmp_path, RAW, num=3))
    one.first.samples["end_to_end_s"] = [100.0, 1.0, 3.0]
    assert quality.values(one.first, "end_to_end_s").tolist() == [1.0, 3.0]
    one.first.samples["process"] = ["p", "q", "q"]
    assert quality.values(one.first, "end_to_end_s").tolist() == [3.0]
    one.first.samples["end_to_end_s"] = [100.0, None, None]
    with pytest.raises(Refused, match="give limit=2 or more"):
        quality.values(one.first, "end_to_end_s")


def test_the_first_problem_is_the_one_that_was_run_first_not_the_first_word(tmp_path: Path) -> None:
    """As words, problem 10 comes before problem 8."""
    one = point(write_run(tmp_path, RAW, num=3))
    one.first.samples["sample_id"] = ["test-10", "test-11", "test-8"]
    one.first.samples["end_to_end_s"] = [1.0, 3.0, 100.0]
    assert quality.values(one.first, "end_to_end_s").to_dict() == {"test-10": 1.0, "test-11": 3.0}


def replaced(cell: Cell) -> Cell:
    cell.facts["study"] = "runs"
    return cell


def test_units_are_spoken() -> None:
    assert [number(v, u) for v, u in ((0.0123, "s"), (12.3, "s"), (2048, "bytes"), (0.5, "%"), (-0.1, "points"), (None, "x"))] == [
        "12.3 ms", "12.30 s", "2.0 KiB", "50.0%", "-10.0", "-",
    ]  # fmt: skip
    with pytest.raises(Refused, match="unknown metric 'kll'"):
        metric("kll")
    assert "kl" in METRICS


@pytest.mark.parametrize(
    ("key", "value"), [("processor", "another CPU"), ("threads", 64), ("environment", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})]
)
def test_times_of_two_machines_are_not_compared(tmp_path: Path, key: str, value: object) -> None:
    raw, text = point(write_run(tmp_path, RAW)), point(write_run(tmp_path, TEXT))
    for one in (raw, text):
        one.first.samples["end_to_end_s"] = 2.0
        one.first.meta.update(processor="a CPU", environment={})
    assert quality.ratio(raw, text, "end_to_end_s").value == 1
    assert "in a process of its own" in quality.ratio(raw, text, "end_to_end_s").note
    text.first.meta[key] = value
    with pytest.raises(Refused, match=f"their times differ in {key}"):
        quality.ratio(raw, text, "end_to_end_s")
    assert quality.contrast(raw, text, "accuracy").effect.num == len(raw.first.samples)


def test_a_saving_that_follows_from_p_and_m(tmp_path: Path) -> None:
    """N = 2, N p = 30, m = 20: 1 - 30 / (30 + 20)."""
    one = point(write_run(tmp_path, (*RAW, "script_tokens=20"), prefilled=15))
    assert quality.values(one.first, "prefilled_tokens").mean() == 30
    assert metric("s_prompt_implied").compute(one, None).value == pytest.approx(0.4)
