"""Break-even: the formula where nothing is streamed, the bend where it is, and never a wrong side."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from avpbench.breakeven import BreakEven, Side, measure, solve
from avpbench.limits import Work
from avpbench.records import CLOCKS, LatencyRecord

WORK = Work(2_000_000, 200_000, 4 * 4 * 8 * 16, 1, 1)


def test_a_worked_example() -> None:
    """256 MB more bytes, 200 ms less work: 8 x 256e6 / 0.2 = 10.24 Gbit/s."""
    assert solve(Side(0.1, 257e6, 0.0), Side(0.3, 1e6, 0.0)) == ("above", pytest.approx(10.24e9))


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"),
    [
        ((0.1, 10), (0.2, 10), "always"),
        ((0.1, 5), (0.2, 10), "always"),
        ((0.2, 10), (0.2, 10), "never"),
        ((0.3, 20), (0.2, 10), "never"),
        ((0.2, 20), (0.2, 10), "never"),
        ((0.1, 0), (0.2, 0), "always"),
    ],
)
def test_where_there_is_no_such_bandwidth(ours: tuple[float, float], theirs: tuple[float, float], wanted: str) -> None:
    assert solve(Side(*ours, 0.0), Side(*theirs, 0.0)) == (wanted, None)


def test_fewer_bytes_and_more_work_pay_below() -> None:
    assert solve(Side(0.3, 1e6, 0.0), Side(0.1, 2e6, 0.0)) == ("below", pytest.approx(8 * 1e6 / 0.2))


def test_a_streamed_transfer_costs_no_less_than_the_link_itself() -> None:
    """Ours waits for the link's own 50 ms in any case; only what is slower than that counts."""
    ours, theirs = Side(0.1, 100e6, 0.05), Side(0.3, 0.0, 0.0)
    assert solve(ours, theirs) == ("above", pytest.approx(8 * 100e6 / 0.2))
    assert solve(Side(0.1, 100e6, 0.25), theirs) == ("never", None)


seconds = st.floats(0.001, 10)
sides = st.builds(Side, seconds, st.integers(0, 10**9), st.sampled_from([0.0, 0.01, 0.5]))


@given(sides, sides)
def test_on_either_side_of_it_the_other_is_faster(ours: Side, theirs: Side) -> None:
    verdict, rate = solve(ours, theirs)
    if rate is None:
        assert (ours.at(0) < theirs.at(0)) == (verdict == "always") or ours.at(0) == theirs.at(0)
        return
    x = 1 / rate
    scale = max(ours.at(x), theirs.at(x))
    assert ours.at(x) == pytest.approx(theirs.at(x), rel=1e-6)
    assume(abs(ours.at(0) - theirs.at(0)) > 1e-6 * scale)
    assert (ours.at(0) < theirs.at(0)) == (verdict == "above")
    assert (ours.at(x * 0.999) - theirs.at(x * 0.999)) * (1 if verdict == "above" else -1) <= 1e-6 * scale


def rows(
    strategy: str, handoff_s: float, transfer_s: float, num_bytes: int, blocks: int = 4, modelled: bool = False
) -> list[LatencyRecord]:
    """Both receiver's clocks are shorter than the hand-off, by a fifth and by two."""
    share = {"host": 0.8, "device": 0.6}
    return [
        LatencyRecord(
            b, 0, strategy, clock, handoff_s * share.get(clock, 1.0) * (1 + 0.01 * b), {"transfer": transfer_s} if clock == "stages" else None, "a", 90, 10, num_bytes,
            str(b % 2), False, transfer_s if modelled else None,
        )
        for b in range(blocks)
        for clock in CLOCKS
    ]  # fmt: skip


def test_what_was_charged_for_the_link_does_not_count() -> None:
    """A modelled bandwidth changes the hand-off and not the break-even."""
    bare = measure([*rows("raw", 0.1, 0.0, 10**6), *rows("reprefill", 0.3, 0.0, 10**3)], "raw", "reprefill", False, WORK)
    assert bare.break_even_bps == pytest.approx(8 * (10**6 - 10**3) / (0.2 * 1.015))
    charged = [*rows("raw", 0.1, 0.0, 10**6), *rows("reprefill", 0.3, 0.0, 10**3)]
    by = {"raw": 0.7, "reprefill": 0.01}
    charged = [
        LatencyRecord(**{
            **asdict(r), "seconds": r.seconds + by[r.strategy] if r.clock in ("handoff", "stages") else r.seconds, "modelled_s": by[r.strategy],
            "stages_s": {"transfer": by[r.strategy]} if r.clock == "stages" else None,
        })
        for r in charged
    ]  # fmt: skip
    assert measure(charged, "raw", "reprefill", True, WORK).break_even_bps == pytest.approx(bare.break_even_bps)


def test_what_the_link_itself_took_bounds_the_transfer_unless_it_was_shaped() -> None:
    """Without a bandwidth no faster link than this one was seen: 0.1 s of work and its own 0.25 s lose to 0.3 s at any rate."""
    both = [*rows("raw", 0.35, 0.25, 10**6), *rows("reprefill", 0.3, 0.0, 10**3)]
    assert measure(both, "raw", "reprefill", False, WORK).break_even == "never"
    shaped = measure(both, "raw", "reprefill", True, WORK)
    assert shaped.break_even == "above"
    assert shaped.break_even_bps == pytest.approx(8 * (10**6 - 10**3) / (0.3 * 1.015 - (0.35 * 1.015 - 0.25)))


def test_the_interval_holds_the_value_and_may_reach_infinity() -> None:
    sure = measure([*rows("raw", 0.1, 0.0, 10**6), *rows("reprefill", 0.3, 0.0, 10**3)], "raw", "reprefill", False, WORK)
    assert sure.break_even == "above"
    assert sure.break_even_low_bps is not None
    assert sure.break_even_bps is not None
    assert sure.break_even_high_bps is not None
    assert 0 < sure.break_even_low_bps <= sure.break_even_bps <= sure.break_even_high_bps < math.inf
    mixed = [*rows("raw", 0.1, 0.0, 10**6, 3), *rows("reprefill", 0.3, 0.0, 10**3, 3)]
    mixed = [LatencyRecord(**{**asdict(r), "seconds": 0.45 if (r.strategy, r.block) == ("raw", 1) else r.seconds}) for r in mixed]
    unsure = measure(mixed, "raw", "reprefill", False, WORK)
    assert unsure.break_even == "above"
    assert unsure.break_even_high_bps is None
    assert "Infinity" not in json.dumps(asdict(unsure))


def test_the_interval_is_that_of_a_mean_over_blocks() -> None:
    """40 blocks of 0.1 s, 20 ms more or less: 1.96 standard errors on either side of the time saved."""
    both = [*rows("raw", 0.1, 0.0, 10**6, 40), *rows("reprefill", 0.3, 0.0, 0, 40)]
    level = {"raw": lambda b: 0.1 + 0.02 * (-1) ** (b // 2), "reprefill": lambda _: 0.3}
    both = [replace(r, seconds=level[r.strategy](r.block), process="0") for r in both]
    found = measure(both, "raw", "reprefill", False, WORK)
    error_s = 1.96 * 0.02 / 40**0.5
    assert found.break_even_low_bps == pytest.approx(8e6 / (0.2 + error_s), rel=0.01)
    assert found.break_even_high_bps == pytest.approx(8e6 / (0.2 - error_s), rel=0.01)


def test_a_against_a_does_not_count() -> None:
    both = [*rows("raw", 0.1, 0.0, 10**6), *rows("reprefill", 0.3, 0.0, 10**3)]
    again = [replace(r, seconds=9.0, aa=True) for r in both if r.strategy == "reprefill"]
    assert measure([*both, *again], "raw", "reprefill", False, WORK) == measure(both, "raw", "reprefill", False, WORK)


def test_nothing_is_said_without_both_or_of_the_reference_itself() -> None:
    both = [*rows("raw", 0.1, 0.0, 10**6), *rows("reprefill", 0.3, 0.0, 10**3)]
    assert measure(rows("raw", 0.1, 0.0, 9), "raw", "reprefill", False, WORK) == BreakEven()
    assert measure(both, "reprefill", "reprefill", False, WORK) == BreakEven()
    assert measure([], "raw", "reprefill", False, WORK) == BreakEven()


def test_the_rate_is_work_over_time() -> None:
    found = measure([*rows("raw", 0.1, 0.0, 10**6, 1), *rows("reprefill", 0.3, 0.0, 10**3, 1)], "raw", "reprefill", False, WORK)
    assert found.reprefill_flops == pytest.approx((2e6 * 100 + 2e5 + 2 * 4 * 8 * 16 * 100**2) / (0.6 * 0.3))
