"""Who hands over fastest at a bandwidth: by hand, and nobody where the blocks do not tell."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic import write_run
from test_metrics import RAW, cells, point, rerun, timed

from analysis.declared import Axis, FigureSpec, PanelSpec
from analysis.errors import Refused
from analysis.estimates import Point
from analysis.figures import draw
from analysis.regimes import fastest

BANDWIDTHS = [10 ** (4 + k / 20) for k in range(81)]  # 10 kbit/s to 100 Mbit/s
EVEN_BPS = 8 * (10_000 - 400) / (1.4 * (0.2 - 0.1))  # 549 kbit/s: the bytes and the seconds of write_run


def ways(folder: Path) -> dict[str, Point]:
    return {name: point(folder, entrant=name) for name in ("reprefill", "raw")}


def test_fewer_bytes_lead_below_the_break_even_and_nobody_near_it(tmp_path: Path) -> None:
    found = list(fastest(ways(timed(tmp_path, {"raw": 0.1, "reprefill": 0.2})), BANDWIDTHS))
    assert [label for _, _, label in found] == ["reprefill", None, "raw"]
    (_, told_to, _), (low, high, _), (told_from, _, _) = found
    assert (found[0][0], told_to, told_from, found[-1][1]) == (BANDWIDTHS[0], low, high, BANDWIDTHS[-1])
    assert low < EVEN_BPS < high
    assert high / low < 10**0.3


def test_a_lead_that_the_blocks_do_not_tell_is_none(tmp_path: Path) -> None:
    wide = (1e9, 3e9, 1e10)  # where bytes cost nothing
    assert list(fastest(ways(timed(tmp_path, {"raw": 0.1, "reprefill": 0.1})), wide)) == [(1e9, 1e10, None)]


def test_a_lead_must_exceed_what_one_way_differs_from_itself(tmp_path: Path) -> None:
    once = ways(timed(tmp_path, {"raw": 0.1, "reprefill": 0.2}))
    for bound, wanted in ((0.6, "raw"), (0.75, None)):  # the log ratio is 0.69
        found = {name: rerun(one, {(f"p{k // 4}", k): 1e-6 * (k % 2) - bound for k in range(20)}) for name, one in once.items()}
        assert next(fastest(found, BANDWIDTHS[-2:]))[2] == wanted, bound


def test_what_cannot_be_set_side_by_side_is_refused(tmp_path: Path) -> None:
    alone = timed(tmp_path / "alone", {"raw": 0.1, "reprefill": 0.2}, aa=False)
    with pytest.raises(Refused, match="never timed against itself"):
        list(fastest(ways(alone), BANDWIDTHS))
    one, two = timed(tmp_path), write_run(tmp_path, (*RAW, "seed=1"), 8, entrants={"raw": 0.01, "reprefill": 0.08})
    with pytest.raises(Refused, match="timed in one cell"):
        list(fastest({"raw": point(one, entrant="raw"), "reprefill": point(two, entrant="reprefill")}, BANDWIDTHS))
    assert list(fastest({}, BANDWIDTHS)) == []


def test_the_map_says_what_lies_below_its_axis(tmp_path: Path) -> None:
    folder = timed(tmp_path, {"raw": 0.1, "reprefill": 0.2})
    lines = {"re-prefill": {"entrant": "reprefill"}, "raw": {"entrant": "raw"}}
    panel = PanelSpec("who", lines, Axis("chain", [2, 9], "agents"), kind="map")
    drawn = draw(FigureSpec("map", "Who.", [panel]), cells(folder), {}, "run this")
    assert math.log10(EVEN_BPS) < 6, "below one megabit a second, where the axis begins"
    assert "raw breaks even at 2 below the axis." in drawn.caption
    assert drawn.gaps == ["missing: re-prefill and raw at 9; run: run this"]
