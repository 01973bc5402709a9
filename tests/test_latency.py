"""Timing: paired blocks, both clocks, an exact number of tokens; and the arithmetic over it."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from conftest import cell, no_stop

from avpbench.aggregate import aa_interval, clocks, divergence, speedup, wilson
from avpbench.breakeven import BreakEven, measure
from avpbench.build import build
from avpbench.config import compose, strategy_config
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError
from avpbench.phases import latency
from avpbench.phases.hop import Place, Timing, sized
from avpbench.records import CLOCKS, EXPORT, FidelityRecord, Journal, LatencyRecord
from avpbench.report import speedup_text
from avpbench.setup import plan
from avpbench.strategies.raw import Raw
from avpbench.strategies.reprefill import Reprefill

OWN = Timing(repeats=1, warmup=0, new_tokens=None, prefix_tokens=None, aa=False)


def record(block: int, strategy: str, seconds: float, clock: str = "host", aa: bool = False) -> LatencyRecord:
    return LatencyRecord(block, 0, strategy, clock, seconds, None, "a", 10, 5, 100, "1", aa)


def timed(engine: Engine, tmp_path: Path, names: tuple[str, ...] = ("raw", "reprefill", "text"), **changes: object) -> list[LatencyRecord]:
    timing = Timing(**({"repeats": 3, "warmup": 1, "new_tokens": 16, "prefix_tokens": None, "aa": False} | changes))  # type: ignore[arg-type]
    journal = Journal(tmp_path / "latency.jsonl", LatencyRecord)
    latency.run(cell(engine, limit=2), [build(strategy_config(n)) for n in names], timing, journal, no_stop)
    return journal.read()


def test_every_block_has_every_strategy_and_clock(tiny: Engine, tmp_path: Path) -> None:
    rows = timed(tiny, tmp_path)
    assert len(rows) == 3 * 3 * (len(CLOCKS) + 1)
    assert {(r.block, r.strategy, r.clock) for r in rows} == {
        (b, s, c) for b in range(3) for s in ("raw", "reprefill", "text") for c in (*CLOCKS, EXPORT)
    }
    orders = [tuple(r.strategy for r in rows if r.block == b and r.clock == "host") for b in range(3)]
    assert len(set(orders)) > 1
    raw = [r for r in rows if r.strategy == "raw"]
    assert {r.new_tokens for r in raw} == {16}
    assert {r.sample_id for r in raw} == {"wordmath-standard-test-0", "wordmath-standard-test-1"}
    assert all(0 < r.seconds < next(h.seconds for h in raw if (h.block, h.clock) == (r.block, "handoff")) for r in raw if r.clock == "host")


def test_stages_are_parts_of_their_total(tiny: Engine, tmp_path: Path) -> None:
    for r in timed(tiny, tmp_path, ("raw",)):
        if r.clock == "stages":
            assert r.stages_s is not None
            assert list(r.stages_s) == ["export", "encode", "transfer", "decode", "inject", "prefill", "first_token", "generate"]
            assert 0.5 * r.seconds < sum(r.stages_s.values()) <= r.seconds
        else:
            assert (r.stages_s is not None) == (r.clock == "export")


def test_export_counts_what_capturing_costs(tiny: Engine, tmp_path: Path) -> None:
    """Pairs of passes for a controller that needs captures; the call alone for who needs none."""
    for name in ("raw", "adaptive", "uniform"):
        (tmp_path / name).mkdir()
    rows = {s: [r for r in timed(tiny, tmp_path / s, (s,)) if r.clock == "export"] for s in ("raw", "adaptive", "uniform")}
    for name, several in rows.items():
        for r in several:
            assert r.stages_s is not None
            spent = dict(r.stages_s)
            order = ["captured", "bare"] if r.block % 2 else ["bare", "captured"]  # so that neither is always the first
            assert list(spent) == (["call", *order] if name == "adaptive" else ["call"])
            assert r.seconds == pytest.approx(spent["call"] + spent.get("captured", 0) - spent.get("bare", 0))
            assert min(spent.values()) > 0


def test_raw_and_reprefill_are_timed_on_the_same_tokens(tiny: Engine, tmp_path: Path) -> None:
    rows = timed(tiny, tmp_path, ("raw", "reprefill"), prefix_tokens=100, new_tokens=7)
    assert {(r.prefix_tokens, r.new_tokens) for r in rows} == {(100, 7)}
    text = [r for r in timed(tiny, tmp_path / "..", ("text",), prefix_tokens=100, new_tokens=7) if r.strategy == "text"]
    assert {r.new_tokens for r in text} == {7}
    assert all(80 < r.prefix_tokens < 250 for r in text)
    one = cell(tiny, limit=2)
    raw, again = latency.last_hops(one, [Raw(), Reprefill()], 1, OWN)
    assert raw.state.token_ids == again.state.token_ids


def test_a_given_prefix_is_read_once_with_all_that_any_way_asks_for(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[frozenset[str]] = []
    monkeypatch.setattr(latency, "sized", lambda *given: read.append(given[-1]) or sized(*given))
    ways = [build(strategy_config(name)) for name in ("raw", "adaptive", "reprefill")]
    hops = latency.last_hops(cell(tiny, limit=1), ways, 0, replace(OWN, prefix_tokens=50))
    assert read == [ways[1].needs]
    assert {id(hop.state) for hop in hops} == {id(hops[0].state)}
    assert hops[0].state.captured.window is not None
    assert [(r.prefix_tokens, r.strategy) for hop in hops for r in hop.by_bytes(Place(0, 0, False)) if r.clock == "host"] == [
        (50, way.label) for way in ways
    ]


def test_text_is_replayed_through_its_own_hops(tiny: Engine) -> None:
    one = cell(tiny, limit=2)
    hop, raw = latency.last_hops(one, [build(strategy_config("text")), Raw()], 0, OWN)
    assert hop.state.turn.said == raw.state.turn.said
    assert hop.state.received is not None
    assert hop.state.received.card.kind == "text"


def test_blocks_that_are_there_are_not_repeated(tiny: Engine, tmp_path: Path) -> None:
    first = timed(tiny, tmp_path, ("raw", "reprefill"), repeats=2)
    both = timed(tiny, tmp_path, ("raw", "reprefill"), repeats=3)
    assert both[: len(first)] == first
    assert {r.block for r in both} == {0, 1, 2}
    assert timed(tiny, tmp_path, ("raw", "reprefill"), repeats=3) == both


def test_words_in_the_place_of_states_are_recorded_and_no_time_of_theirs(
    tiny: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path / "latency.jsonl", LatencyRecord)
    ways = [build(compose(["strategy=projected", f"strategy.max_entropy={most}"]).strategy) for most in (0, 100)]
    latency.run(cell(tiny, limit=2), [ways[0], Raw(), Reprefill()], Timing(2, 0, 4, None, aa=False), journal, no_stop)
    fallen = journal.read()
    assert {r.fell_back for r in fallen if r.strategy == "projected"} == {True}
    assert not any(r.fell_back for r in fallen if r.strategy != "projected")
    assert "projected fell back to words" in capsys.readouterr().out
    assert (clocks(fallen, "projected").num_blocks, clocks(fallen, "projected").ttft_host_speedup) == (0, None)
    assert clocks(fallen, "raw").num_blocks == 2
    assert measure(fallen, "projected", "reprefill", False, None) == BreakEven()
    whole = Journal(tmp_path / "whole.jsonl", LatencyRecord)
    latency.run(cell(tiny, limit=2), [ways[1], Reprefill()], Timing(2, 0, 4, None, aa=False), whole, no_stop)
    assert clocks(whole.read(), "projected").num_blocks == 2


def test_what_a_crash_left_of_a_block_does_not_count(tiny: Engine, tmp_path: Path) -> None:
    timed(tiny, tmp_path, ("raw", "reprefill"), repeats=2)
    path = tmp_path / "latency.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
    rows = timed(tiny, tmp_path, ("raw", "reprefill"), repeats=2)
    assert [len([r for r in rows if r.block == b]) for b in range(3)] == [10, 7, 10]
    assert clocks(rows, "raw").num_blocks == 2


def test_half_a_block_enters_no_number() -> None:
    """A block that lost a clock counts in no mean, and in no speed-up either; an A/A row does not stand for a plain one."""
    whole = [record(0, s, t, clock) for s, t in (("raw", 1.0), ("reprefill", 2.0)) for clock in CLOCKS]
    torn = [record(1, "raw", 1.0), record(1, "reprefill", 200.0)]
    doubled = [record(2, s, 1.0, clock, aa=s == "raw") for s in ("raw", "reprefill") for clock in CLOCKS]
    times = clocks([*whole, *torn, *doubled], "raw")
    assert times.num_blocks == 1
    assert times.ttft_host_speedup == pytest.approx(2.0)


def test_blocks_without_aa_do_not_count_for_aa(tiny: Engine, tmp_path: Path) -> None:
    plain = timed(tiny, tmp_path, ("raw", "reprefill"), repeats=2)
    rows = timed(tiny, tmp_path, ("raw", "reprefill"), repeats=2, aa=True)
    assert rows[: len(plain)] == plain
    assert sum(r.aa for r in rows) == 2 * len(CLOCKS)
    assert {r.block for r in rows} == {0, 1, 2, 3}


def test_aa_runs_a_strategy_twice(tiny: Engine, tmp_path: Path) -> None:
    rows = timed(tiny, tmp_path, ("raw", "reprefill"), aa=True)
    assert sum(r.aa for r in rows) == 3 * len(CLOCKS)  # an export twice would tell nothing
    assert aa_interval(rows, "raw") is not None


def test_a_withheld_ratio_says_why() -> None:
    """Two runs of one strategy that lie a tenth apart, and the same with both alike."""
    rows = [record(b, s, t, clock) for b in range(3) for s, t in (("raw", 1.0), ("reprefill", 2.0)) for clock in CLOCKS]
    for apart, told in ((0.1, True), (0.001, False)):
        again = [replace(record(b, "raw", math.exp(apart + 0.001 * b)), aa=True) for b in range(3)]
        times = clocks([*rows, *again], "raw")
        assert (times.ttft_host_speedup is None) == told
        said = speedup_text(times)
        assert (said is not None and "+0.0" in said and "latency.repeats" in said) == told


def test_each_clock_s_ratio_wants_its_own_aa() -> None:
    """The host clock sound and the device's a tenth apart: the device's ratio alone is withheld."""
    rows = [record(b, s, t, clock) for b in range(3) for s, t in (("raw", 1.0), ("reprefill", 2.0)) for clock in CLOCKS]
    apart = {"host": 0.001, "device": 0.1}
    again = [replace(record(b, "raw", math.exp(off + 0.001 * b), clock), aa=True) for b in range(3) for clock, off in apart.items()]
    times = clocks([*rows, *again], "raw")
    assert times.ttft_host_speedup == pytest.approx(2.0)
    assert times.ttft_device_speedup is None


def test_a_ratio_without_aa_says_so() -> None:
    rows = [record(b, s, t, clock) for b in range(3) for s, t in (("raw", 1.0), ("reprefill", 2.0)) for clock in CLOCKS]
    said = speedup_text(clocks(rows, "raw"))
    assert said is not None
    assert all(words in said for words in ("not checked", "gates=full"))
    assert speedup_text(clocks([r for r in rows if r.strategy == "raw"], "raw")) is None
    assert speedup_text(clocks([], "raw")) is None


class Clockwork:
    """A timed hop that takes just so long."""

    def __init__(self, seconds: float) -> None:
        self.strategy, self._seconds = Raw(), seconds

    def every_clock(self, place: Place) -> list[LatencyRecord]:
        return [self._row(place, clock) for clock in CLOCKS]

    def by_bytes(self, place: Place) -> list[LatencyRecord]:
        return [self._row(place, clock) for clock in ("host", "handoff")]

    def _row(self, place: Place, clock: str) -> LatencyRecord:
        return LatencyRecord(place.block, place.order, str(self._seconds), clock, self._seconds, None, "a", 1, 1, 1, "1", place.aa)


def test_what_is_quick_runs_again_in_the_time_of_the_slowest() -> None:
    """2 s hold one run of 2 s, two of 1 s and 15 of 0.1 s, where 15 is the most; each has a place of its own."""
    entrants = [(Clockwork(2.0), False), (Clockwork(1.0), False), (Clockwork(0.1), False), (Clockwork(0.1), True)]
    rows = latency.timed_block(entrants, 7, 15, random.Random(0))
    runs = {
        (s, aa): len([r for r in rows if (r.strategy, r.aa, r.clock) == (s, aa, "host")]) for s, aa in {(r.strategy, r.aa) for r in rows}
    }
    assert runs == {("2.0", False): 1, ("1.0", False): 2, ("0.1", False): 15, ("0.1", True): 15}
    assert sum(r.clock in ("device", "stages") for r in rows) == 2 * len(entrants)
    places = [r.order for r in rows if r.clock == "host"]
    assert places == list(range(33))
    late = [r.strategy for r in rows if r.clock == "host" and r.order >= 4]
    assert late != sorted(late)
    assert late != sorted(late, reverse=True)
    for seed in range(20):  # a slow phase of the machine meets both of A/A alike: they are never two runs apart
        later = latency.timed_block(entrants, 7, 15, random.Random(seed))[len(entrants) * len(CLOCKS) :]
        ahead = list(accumulate({("0.1", False): 1, ("0.1", True): -1}.get((r.strategy, r.aa), 0) for r in later if r.clock == "host"))
        assert len(ahead) == 29
        assert max(map(abs, ahead)) == 1
    assert len(latency.timed_block(entrants, 7, 1, random.Random(0))) == len(entrants) * len(CLOCKS)


def test_the_runs_of_a_block_count_as_their_mean() -> None:
    """Two blocks of unlike numbers of runs: each is one block in every mean, ratio and interval."""
    rows = [record(b, s, t, clock) for b in (0, 1) for s, t in (("raw", 1.0), ("reprefill", 6.0)) for clock in CLOCKS]
    rows += [
        replace(record(0, "raw", seconds, clock), order=order)
        for order in (2, 3)
        for seconds, clock in ((3.0 + order, "host"), (9.0, "handoff"))
    ]
    times = clocks(rows, "raw")
    assert times.num_blocks == 2
    assert times.ttft_host_s == pytest.approx((4.0 + 1.0) / 2)  # 1, 5 and 6; 1
    assert times.ttft_host_speedup == pytest.approx(math.sqrt(6 / 4 * 6))
    assert times.ttft_device_speedup == pytest.approx(6.0)
    twice = [replace(record(b, "raw", t), aa=True) for b, t in ((0, 4.0 * math.exp(0.01)), (1, math.exp(-0.01)))]
    assert sum(aa_interval([*rows, *twice], "raw") or (1,)) == pytest.approx(0.0, abs=1e-12)
    known = measure([replace(r, stages_s={}, wire_bytes=8 if r.strategy == "raw" else 1) for r in rows], "raw", "reprefill", False, None)
    assert known.break_even == "above"
    assert known.break_even_bps == pytest.approx(8 * 7 / (6.0 - (19 / 3 + 1) / 2))


def test_a_rival_of_the_same_label_does_not_take_the_strategys_place() -> None:
    """A label does not hold every option; workers build what is written by label."""
    words = ["strategy=adaptive", "strategy.requantize=true", "latency.against=[reprefill,adaptive,reprefill]"]
    asked = plan(compose(words))
    assert [rival.label for rival in asked.rivals] == ["reprefill"]
    assert [json.loads(text).get("requantize") for text in asked.written] == [True, None]


def test_runs_of_a_block_are_kept(tiny: Engine, tmp_path: Path) -> None:
    rows = timed(tiny, tmp_path, ("raw", "reprefill"), repeats=1, runs=2, prefix_tokens=800)
    raw = [r for r in rows if r.strategy == "raw" and r.clock == "host"]
    assert len(raw) == 2
    assert len({(r.order, r.clock) for r in rows}) == len(rows)
    assert clocks(rows, "raw").ttft_host_s == pytest.approx(sum(r.seconds for r in raw) / 2)


@pytest.mark.parametrize("changes", [{"repeats": 0}, {"warmup": -1}, {"new_tokens": 0}, {"prefix_tokens": 0}, {"runs": 0}])
def test_bad_timing_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Timing(**({"repeats": 1, "warmup": 0, "new_tokens": 1, "prefix_tokens": 1, "aa": False} | changes))  # type: ignore[arg-type]


def test_the_speedup_is_a_geometric_mean_over_blocks() -> None:
    rows = [record(0, "raw", 1.0), record(0, "reprefill", 2.0), record(1, "raw", 1.0), record(1, "reprefill", 8.0), record(2, "raw", 9.0)]
    assert speedup(rows, "raw", "host") == pytest.approx(4.0)
    assert speedup(rows, "text", "host") is None
    assert speedup(rows, "reprefill", "host") == pytest.approx(1.0)


def test_an_unsound_aa_withholds_the_speedup_and_nothing_else() -> None:
    rows = [record(b, s, t, clock) for b in range(4) for s, t in (("raw", 1.0), ("reprefill", 2.0)) for clock in CLOCKS]
    sound = rows + [record(b, "raw", 1.0 + 0.001 * (-1) ** b, aa=True) for b in range(4)]
    unsound = rows + [record(b, "raw", 1.0 + 0.3 * (-1) ** b, aa=True) for b in range(4)]
    assert speedup(sound, "raw", "host") == pytest.approx(2.0)
    assert speedup(unsound, "raw", "host") is None
    times = clocks(unsound, "raw")
    assert times.ttft_host_speedup is None
    assert times.ttft_host_s == pytest.approx(1.0)
    assert times.reference_ttft_host_s == pytest.approx(2.0)


def test_stages_are_means_and_the_residual_is_told() -> None:
    rows = [record(b, "raw", 10.0, clock) for b in (0, 1) for clock in CLOCKS]
    rows = [replace(r, seconds=99.0, stages_s={"decode": 4.0, "prefill": 5.0 + r.block}) if r.clock == "stages" else r for r in rows]
    times = clocks(rows, "raw")
    assert times.stages_s == {"decode": 4.0, "prefill": 5.5}
    assert times.stages_residual == pytest.approx(1 - 9.5 / 10)
    withheld = clocks(rows, "raw", exact=True)
    assert withheld.stages_s is None
    assert withheld.stages_residual == times.stages_residual


def test_wilson_agrees_with_a_worked_example() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    low, high = wilson(81, 263)
    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)
    assert wilson(0, 0) == (None, None)
    assert math.isclose(wilson(0, 10)[0] or 0.0, 0.0, abs_tol=1e-12)


def test_fidelity_comes_with_intervals() -> None:
    """The bootstrap of a mean is near the normal one, and is the same each time."""
    rng = random.Random(0)
    rows = [
        FidelityRecord(str(k), 9, rng.expovariate(10), 1.5 + rng.gauss(0, 0.1), 1.25, 0.1, [[0.9, 0.9], [0.1, 0.3]]) for k in range(400)
    ]
    found = divergence(rows)
    assert found.kl is not None
    assert found.kl_low is not None
    assert found.kl_high is not None
    half = 1.96 * 0.1 / 20
    assert found.kl == pytest.approx(0.1, abs=2 * half)
    assert found.kl - found.kl_low == pytest.approx(half, rel=0.2)
    assert found.kl_high - found.kl == pytest.approx(half, rel=0.2)
    assert found.kl_median == pytest.approx(0.0693, rel=0.15)
    assert found.kl_p99 == pytest.approx(0.46, rel=0.3)
    assert found.nll_difference == pytest.approx(0.25, abs=0.02)
    assert found.attention_error == pytest.approx(0.2)
    assert found == divergence(rows)
    assert divergence([]).kl is None
