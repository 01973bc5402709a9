"""What a table may conclude: Holm over all that was named, verdicts that want an interval, labels of a setting, several seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import write_run
from test_metrics import ADAPTIVE, cells, point, timed, unsound

from analysis import contrasts, html, quality, strategies, timing
from analysis.cells import MIXTURE, in_place, usual_place
from analysis.claims import _ruling
from analysis.claims import table as claims_table
from analysis.declared import Axis, Claim, ContrastSpec, Declared, FigureSpec, Measure, PanelSpec
from analysis.errors import MismatchedSamples, Refused
from analysis.estimates import Estimate, Point
from analysis.figures import draw
from analysis.runs import compare
from analysis.tables import Entry, Table, joined, markdown

UNIFORM = (*ADAPTIVE, "strategy/controller=uniform")
SPEC = ContrastSpec("{controller} against uniform", "kl", {}, {"controller": "uniform"}, "less", each={"controller": ["snapkv", "keydiff"]})


def study(*specs: ContrastSpec) -> Declared:
    return Declared("runs", "runs", "T", "Q", "run this", [], list(specs), [])


def column(table: Table, name: str) -> list[str]:
    return [row[table.header.index(name)].text for row in table.rows]


def test_holm_counts_the_contrasts_that_are_missing(tmp_path: Path) -> None:
    found = cells(write_run(tmp_path, ADAPTIVE, kl=lambda k: 0.1 + 0.01 * (k % 3)), write_run(tmp_path, UNIFORM, kl=lambda k: 0.12))
    table = contrasts.table(study(SPEC), found)
    (p,), (adjusted,) = column(table, "p"), column(table, "p (Holm)")
    assert float(adjusted) == pytest.approx(2 * float(p), rel=0.1)
    assert any(note.startswith("missing: ") and "keydiff" in note for note in table.notes)
    assert column(table, "verdict") == ["holds, in 1 training seed"]


def test_controllers_are_contrasted_at_equal_bits_only(tmp_path: Path) -> None:
    rich = (*ADAPTIVE, "strategy.budget_bits=6")
    found = cells(write_run(tmp_path, rich, kl=lambda k: 0.1), write_run(tmp_path, (*UNIFORM, "strategy.budget_bits=3"), kl=lambda k: 0.2))
    for cell, bits in zip(found, (6.0, 3.0), strict=True):
        cell.fidelity["mean_bits"] = bits
    spec = replace(SPEC, each={"controller": ["snapkv"]})
    table = contrasts.table(study(spec), found)
    assert not table.rows
    assert any("snapkv takes 6.00 true bits, uniform 3.00" in note for note in table.told()), table.told()


@pytest.mark.parametrize(("bits", "equal"), [(3.05, True), (2.95, True), (3.09, False), (2.91, False)])
def test_true_bits_are_equal_within_two_in_a_hundred(tmp_path: Path, bits: float, equal: bool) -> None:
    found = cells(write_run(tmp_path, ADAPTIVE, kl=lambda k: 0.1 + k / 1000), write_run(tmp_path, UNIFORM, kl=lambda k: 0.2))
    for cell, its in zip(found, (bits, 3.0), strict=True):
        cell.fidelity["mean_bits"] = its
    table = contrasts.table(study(replace(SPEC, each={"controller": ["snapkv"]})), found)
    assert len(table.rows) == equal


def test_runs_of_two_controllers_are_compared_at_equal_bits_only(tmp_path: Path) -> None:
    folders = (
        write_run(tmp_path, (*UNIFORM, "strategy.budget_bits=3"), kl=lambda k: 0.2, scored_bits=3.0),
        write_run(tmp_path, (*ADAPTIVE, "strategy.budget_bits=6"), kl=lambda k: 0.1 + k / 1000, scored_bits=6.0),
    )
    table = compare(folders)
    assert any("takes 6.00 true bits" in note for note in table.told()), table.told()
    assert all(entry.text == "-" for entry in table.rows[1][-3:])


def test_one_controller_at_two_prices_is_contrasted_and_both_are_said(tmp_path: Path) -> None:
    found = cells(*(write_run(tmp_path, (*ADAPTIVE, f"strategy.budget_bits={b}"), kl=lambda k: 0.1 + k / 1000) for b in (6, 3)))
    for cell, bits in zip(found, (6.0, 3.0), strict=True):
        cell.fidelity["mean_bits"] = bits
    spec = replace(SPEC, name="more bits", a={"strategy.budget_bits": 6}, b={"strategy.budget_bits": 3}, each={})
    notes = contrasts.table(study(spec), found).told()
    assert any(note.startswith("more bits: more bits takes 6.00 true bits, more bits 3.00") for note in notes), notes


def test_a_small_p_is_no_verdict_where_the_interval_holds_no_effect(tmp_path: Path) -> None:
    effect = Estimate(-0.01, -0.03, 0.01, 40, point(write_run(tmp_path, ADAPTIVE)).cells)
    found = contrasts._Found(effect, 1e-9, 0.01, (-0.01, -0.01, -0.01), "nats", 0.0)
    assert contrasts._verdict(SPEC, found, 1e-9) == "no difference shown"
    sure = replace(found, effect=replace(effect, high=-0.001))
    assert contrasts._verdict(SPEC, sure, 1e-9) == "holds"
    assert contrasts._verdict(SPEC, replace(sure, by_seed=(-0.02, 0.01, -0.02)), 1e-9) == "holds, and not in each of 3 training seeds"
    for odd in ((-0.02, 0.0, -0.02), (0.02, 0.0, 0.02)):  # nothing at all is no vote for either side
        assert contrasts._verdict(SPEC, replace(sure, by_seed=odd), 1e-9) == "holds, and not in each of 3 training seeds"
    assert contrasts._verdict(SPEC, sure, 0.06) == "no difference shown"


def test_a_claim_that_names_a_contrast_has_its_verdict(tmp_path: Path) -> None:
    """An interval beside 0 is not enough where Holm or a training seed says otherwise; and the verdict leads to what it rests on."""
    found = [
        point(write_run(tmp_path, words, kl=lambda k, m=mean: m + 0.01 * (k % 3))) for words, mean in ((ADAPTIVE, 0.1), (UNIFORM, 0.2))
    ]  # type: ignore[misc]
    told = [one.first for one in found]
    measure = Measure("three: KL", "kl_difference", {"controller": "snapkv"}, {"controller": "uniform"}, contrast="c")
    words = {"holds": "holds {0}", "fails": "fails", "unclear": "unclear, shown in {matching}"}
    claim = Claim("c", "s", "t", "d", "-", "runs", [measure], "any", words, at_most=0)
    said = {
        "holds": "holds -0.1", "holds, in 1 training seed": "holds -0.1", "no difference shown": "unclear, shown in none",
        "holds, and not in each of 3 training seeds": "unclear, shown in none", "the reverse holds": "fails",
    }  # fmt: skip
    for verdict, text in said.items():
        field = claims_table([claim], told, {}, {"runs": {"c": verdict}}).rows[0][-1]
        assert field.text == f"{text}, in 1 training seed"
        assert set(field.sources) == set(told)
    assert claims_table([claim], told, {}).rows[0][-1].text == "unclear, shown in none, in 1 training seed", "a contrast that was refused"
    alone = claims_table([replace(claim, measures=[replace(measure, contrast="")])], told, {}, {"runs": {"c": "no difference shown"}})
    assert alone.rows[0][-1].text == "holds -0.1, in 1 training seed"


def test_no_difference_at_all_is_no_claim_that_holds(tmp_path: Path) -> None:
    claim = Claim("c", "s", "t", "d", "-", "t", [Measure("m", "kl_difference", {})], "any", {}, at_most=0)
    same = Estimate(0.0, 0.0, 0.0, 40, ())
    sides = {(0.0, 0.0): "unclear", (-0.1, 0.0): "unclear", (-0.2, -0.1): "holds", (0.1, 0.2): "fails", (-0.1, 0.1): "unclear"}
    assert {span: _ruling(claim, replace(same, low=span[0], high=span[1])) for span in sides} == sides


def every(share: float) -> Callable[[int], bool]:
    return lambda k: k % 20 < 20 * share


@pytest.mark.parametrize(
    ("blank", "shuffled", "label"),
    [(0.1, 0.2, "sensitive"), (0.1, 0.75, "undetermined"), (0.75, 0.1, "undetermined"), (0.8, 0.8, "insensitive")],
)
def test_a_setting_is_as_sensitive_as_its_better_control_leaves_it(tmp_path: Path, blank: float, shuffled: float, label: str) -> None:
    made = {"raw": (0.8, "strategy=raw"), "blank": (blank, "strategy=blank"), "shuffled": (shuffled, "strategy=raw", "donor=other")}
    rows = {
        name: point(write_run(tmp_path, ("study=t", "chain=2", *words), num=400, right=every(share)))
        for name, (share, *words) in made.items()
    }
    table = Table("t", "T", [])
    strategies.fill(table, rows)
    (told,) = [note for note in table.notes if note.startswith("sensitivity: ")]
    assert told.startswith(f"sensitivity: {label};")
    best = "blank" if blank >= shuffled else "shuffled"
    sources = ", ".join(f"[{rows[name].first.hash}][cell {rows[name].first.hash}]" for name in ("raw", best))
    assert f"{told} ({sources})" in table.told(lambda cell: f"cell {cell.hash}")


def test_times_of_another_device_do_not_stand_beside_the_rest(tmp_path: Path) -> None:
    ways = {name: ("study=t", f"strategy={name}", "latency=on") for name in ("raw", "text", "reprefill")}
    rows = {
        name: point(
            write_run(
                tmp_path, words, entrants={name: 0.01, "reprefill": 0.08}, identity={"device": "NVIDIA H100"} if name == "text" else None
            )
        )
        for name, words in ways.items()
    }
    table = Table("t", "T", [])
    strategies.fill(table, rows)
    assert [text == "-" for text in column(table, "hand-off")] == [False, True, False]
    assert any(note.startswith("times of text: refused") and "NVIDIA H100" in note for note in table.told())
    assert "-" not in column(table, "accuracy")


@pytest.mark.parametrize(("budget", "mixed"), [("3", True), ("level2", False)])
def test_uniform_at_a_number_of_bits_is_told_to_be_a_mixture(tmp_path: Path, budget: str, mixed: bool) -> None:
    table = Table("t", "T", [])
    strategies.fill(table, {"uniform": point(write_run(tmp_path, (*UNIFORM, f"strategy.budget_bits={budget}")))})
    assert (MIXTURE in table.notes) == mixed


def seeds(root: Path, words: tuple[str, ...], right: Callable[[int, int], bool], kl: Callable[[int, int], float]) -> Point:
    folders = []
    for variant in range(3):
        weights = {"weights": [f"w{variant}"]}
        folder = write_run(
            root,
            (*words, f"+model.x={variant}"),
            num=200,
            right=lambda k, v=variant: right(v, k),
            kl=lambda k, v=variant: kl(v, k),
            identity=weights,
        )  # type: ignore[misc]
        meta = json.loads((folder / "meta.json").read_text())
        meta["config"]["model"]["variant"] = variant
        (folder / "meta.json").write_text(json.dumps(meta))
        folders.append(folder)
    return point(*folders)


def test_seeds_that_disagree_are_no_more_evidence_than_the_least_of_them(tmp_path: Path) -> None:
    """Answers of three models to one problem are no three problems: a difference of one seed alone is not shown."""
    plain = lambda v, k: k % 4 > 0  # noqa: E731
    better = lambda v, k: k % 4 > 0 or (v == 0 and k % 8 == 0)  # noqa: E731
    ours = seeds(tmp_path, ADAPTIVE, better, lambda v, k: 0.1 + 0.001 * k)
    other = seeds(tmp_path, UNIFORM, plain, lambda v, k: 0.1 + 0.001 * k + (0.05 if v == 0 else 0))
    for name in ("accuracy", "kl"):
        found = quality.contrast(ours, other, name)
        assert found.p == 1.0
        assert found.effect.low is not None
        assert found.effect.high is not None
        assert found.effect.low <= 0 <= found.effect.high
        one = quality.contrast(Point("a", ours.cells[:1], "a"), Point("b", other.cells[:1], "b"), name)
        assert one.p < 0.001


def test_a_ratio_of_seeds_that_disagree_is_wide(tmp_path: Path) -> None:
    def made(strategy: str, tokens: list[int]) -> Point:
        folders = []
        for variant, prefilled in enumerate(tokens):
            words = ("study=t", "chain=2", f"strategy={strategy}", f"+model.x={variant}")
            folder = write_run(tmp_path, words, prefilled=prefilled, identity={"weights": [f"w{variant}"]})
            meta = json.loads((folder / "meta.json").read_text())
            meta["config"]["model"]["variant"] = variant
            (folder / "meta.json").write_text(json.dumps(meta))
            folders.append(folder)
        return point(*folders)

    found = quality.saving(made("raw", [25, 50, 75]), made("text", [100, 100, 100]), "s_prompt")
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.25, 0.75), abs=0.02)


def test_contrasts_of_clocks_keep_the_rules_of_ratios(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="A/A is unsound"):
        timing.faster(unsound(point(timed(tmp_path / "a"))), "host", "reprefill")
    spec = ContrastSpec("raw answers sooner", "ttft_host", {"entrant": "raw"}, {"entrant": "reprefill"}, "more")
    few = contrasts.table(study(spec), cells(timed(tmp_path / "b", processes=2)))
    assert column(few, "verdict") == ["undecided: too few process restarts"]
    assert any("2 of 5 process restarts" in note for note in few.notes)
    whole = contrasts.table(study(spec), cells(timed(tmp_path / "c")))
    assert column(whole, "verdict") == ["holds"]
    assert column(whole, "MDD")[0].endswith("x")


def test_a_hand_off_on_a_gpu_has_a_ratio_and_a_slow_reference_is_replaced(tmp_path: Path) -> None:
    gpu = {"device": "NVIDIA H100"}
    slow = point(timed(tmp_path, {"raw": 0.01, "reprefill": 0.08}, identity=gpu))
    found = timing.speedup(slow, "handoff")
    assert found.value == pytest.approx(0.3 * 0.08 / 0.014, rel=0.05), "re-prefill's limit on the host clock over raw's hand-off"
    assert "against the limit of re-prefill" in found.note
    with pytest.raises(Refused, match="too far for a reference"):
        timing.faster(slow, "handoff", "reprefill")
    slow.first.latency["limit_s"] *= 3
    timing._sorted_out.cache_clear()
    near = timing.speedup(slow, "handoff")
    assert near.value == pytest.approx(8, rel=0.05)
    assert not near.note


def test_a_claim_that_wants_a_gpu_and_was_refused_there_says_so(tmp_path: Path) -> None:
    measure = Measure("raw", "ttft_host_speedup", {"strategy": "raw"})
    claim = Claim("c", "s", "t", "d", "-", "runs", [measure], "cuda", dict.fromkeys(("holds", "fails", "unclear"), "{0}"), at_least=1)
    found = unsound(point(timed(tmp_path, identity={"device": "NVIDIA H100"})))
    table = claims_table([claim], found.cells, {})
    assert table.rows[0][-1].text == "undecided: refused, as the notes say"
    assert "A/A is unsound" in " ".join(table.told())


def test_a_claim_whose_measures_ran_on_several_devices_is_not_decided(tmp_path: Path) -> None:
    measures = [Measure(name, "ttft_host_speedup", {"strategy": name}) for name in ("raw", "text")]
    claim = Claim("c", "s", "t", "d", "-", "runs", measures, "cuda", dict.fromkeys(("holds", "fails", "unclear"), "{0}"), at_least=1)
    of = {
        name: {"entrants": {name: 0.01, "reprefill": 0.08}, "identity": {"device": device}}
        for name, device in (("raw", "NVIDIA H100"), ("text", "cpu-x86_64"))
    }
    apart = cells(*(write_run(tmp_path, ("study=runs", "chain=2", f"strategy={name}"), 8, **how) for name, how in of.items()))  # type: ignore[arg-type]
    shown = claims_table([claim], apart, {}).rows[0][-1].text
    assert shown == "undecided: measured on several devices (NVIDIA H100; cpu-x86_64)"
    for cell in apart:
        cell.meta["identity"]["device"] = "NVIDIA H100"
    assert "several devices" not in claims_table([claim], apart, {}).rows[0][-1].text


def test_a_ratio_of_chains_wants_five_processes_a_side(tmp_path: Path) -> None:
    raw, text = cells(*(write_run(tmp_path, ("study=t", "chain=2", f"strategy={name}"), num=12) for name in ("raw", "text")))
    for cell, seconds in ((raw, 1.0), (text, 3.0)):
        cell.samples["end_to_end_s"] = [seconds + 0.01 * k for k in range(12)]
    spec = ContrastSpec("raw is sooner", "ratio:end_to_end_s", {"strategy": "raw"}, {"strategy": "text"}, "more")
    assert column(contrasts.table(study(spec), [raw, text]), "verdict") == ["undecided: too few process restarts"]
    for cell in (raw, text):
        cell.samples["process"] = [f"p{k // 2}" for k in range(12)]
    found = contrasts.table(study(spec), [raw, text])
    assert column(found, "n") == ["6"]
    assert column(found, "verdict")[0].startswith("holds")
    text.samples["process"] = [f"p{k // 3}" for k in range(12)]
    with pytest.raises(MismatchedSamples):
        quality.ratio(Point("raw", (raw,), "raw"), Point("text", (text,), "text"), "end_to_end_s")


def test_a_number_of_several_cells_leads_to_all_of_them(tmp_path: Path) -> None:
    raw, text = (point(write_run(tmp_path, ("study=t", "chain=2", f"strategy={name}"))) for name in ("raw", "text"))
    table = Table("t", "T", [])
    strategies.fill(table, {"raw": raw, "text": text})
    line = next(line for line in markdown(table, lambda cell: cell.label).splitlines() if line.startswith("| text |"))
    assert line.endswith(f"| [{text.first.hash}][text] [{raw.first.hash}][raw] |")
    saved = table.entry(Estimate(0.6, 0.5, 0.7, 40, (*raw.cells, *text.cells)), "%")
    of_claims = Table("t", "T", ["ours"], [[joined([saved, Entry("more")])]])  # numbers in one field, as the claims have them
    assert markdown(of_claims, lambda cell: cell.label).splitlines()[-1].endswith(f"| [{raw.first.hash}][raw] [{text.first.hash}][text] |")
    field = html._table(of_claims)["rows"][0][0]  # on the page, each number with its own link
    assert [(words[:5], of) for words, of in field] == [("60.0%", [html._key(raw.first), html._key(text.first)]), ("more", [])]


def test_no_discordant_problem_in_any_seed_is_no_proof_of_equality(tmp_path: Path) -> None:
    """Resampling zeros gives zeros; Tango's interval of a seed has a width."""

    def of(name: str) -> Point:
        found = []
        for variant in range(3):
            words = ("study=t", "chain=2", f"strategy={name}", f"model.variant={variant}")
            found.append(write_run(tmp_path, words))
        return point(*found)

    found = quality.contrast(of("raw"), of("text"), "accuracy")
    assert (found.effect.low, found.effect.high) == pytest.approx((-0.088, 0.088), abs=0.002)
    assert found.detectable == pytest.approx(2.8 * 0.088 / 1.96, rel=0.03)  # not 0: that would say that any difference had shown


@pytest.mark.parametrize(("key", "value"), [("prompts", "others"), ("dtype", "bfloat16")])
def test_cells_of_other_prompts_are_not_drawn_beside_each_other(tmp_path: Path, key: str, value: str) -> None:
    raw, text = (point(write_run(tmp_path, ("study=t", "chain=2", f"strategy={name}"))) for name in ("raw", "text"))
    place = usual_place([*raw.cells, *raw.cells, *text.cells])
    in_place(text.cells, place)
    text.first.meta["identity"][key] = value
    with pytest.raises(Refused, match=f"ran with .*{value}"):
        in_place(text.cells, place)


def test_a_panel_stands_where_its_own_cells_ran(tmp_path: Path) -> None:
    """Whole chains whose last hop was not timed, beside a study's other cells that were, with another number of threads."""
    chains = cells(*(write_run(tmp_path, (f"chain={n}", "study=t", "strategy=raw", "latency=off")) for n in (2, 3)))
    timed_ones = cells(*(write_run(tmp_path, (f"chain={n}", "study=t", "strategy=raw"), 8, entrants={"raw": 0.1}) for n in (4, 5, 6)))
    for cell in chains:
        cell.samples["end_to_end_s"] = 2.0
    for cell in timed_ones:
        cell.meta["threads"] = 2
    panel = PanelSpec("seconds", {"raw": {"strategy": "raw"}}, Axis("chain", [2, 3], "agents"), metric="end_to_end_s")
    spec = FigureSpec("clock", "Time.", [panel])
    assert draw(spec, [*chains, *timed_ones], {}, "run this").gaps == []
    assert draw(spec, [*chains, *timed_ones[:1]], {}, "run this").gaps == []
    chains[1].meta["threads"] = 8
    assert "threads 8" in str(draw(spec, [*chains, *timed_ones], {}, "run this").gaps)


def test_records_of_a_larger_limit_all_count(tmp_path: Path) -> None:
    """A session with a smaller limit sums up fewer of them; records are what is true."""
    folder = write_run(tmp_path, ADAPTIVE, num=40, kl=lambda k: 0.1)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"num_samples": 16, "num_scored": 16}))
    (cell,) = cells(folder)
    assert cell.problem is None
    assert (cell.facts["num_samples"], cell.facts["num_scored"]) == (40, 40)


def test_records_that_were_cut_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, ADAPTIVE, kl=lambda k: 0.1, entrants={"quantized snapkv affine 4": 0.01, "reprefill": 0.08})
    assert cells(folder)[0].problem is None
    for name, count, told in (("fidelity", 5, "5 scores"), ("latency", 24, "timed blocks")):
        path = folder / f"{name}.jsonl"
        whole = path.read_text()
        path.write_text("".join(whole.splitlines(keepends=True)[:count]))
        assert told in str(cells(folder)[0].problem)
        path.write_text(whole)
