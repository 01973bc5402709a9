"""link.bandwidth: shaped on sockets, charged and marked in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TASK, cell, no_stop, settings
from hypothesis import given
from hypothesis import strategies as st
from peers import encoded, inlet, outbox, terms

from avpbench.cell import Cell
from avpbench.chain import run_chain
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError
from avpbench.links.bandwidth import TokenBucket
from avpbench.links.direct import Direct
from avpbench.meter import Stages, now_s
from avpbench.phases import latency, quality
from avpbench.phases.hop import Timing
from avpbench.rates import bits_per_s
from avpbench.records import Journal, LatencyRecord, SampleRecord
from avpbench.strategies.raw import Raw


@pytest.mark.parametrize(
    ("written", "rate"), [("1Gbps", 1e9), ("10Gbps", 1e10), ("2.5Mbps", 2.5e6), ("8bps", 8.0), ("1Tbps", 1e12), (None, None)]
)
def test_rates_are_read(written: str | None, rate: float | None) -> None:
    assert bits_per_s("link.bandwidth", written) == rate


@pytest.mark.parametrize("written", ["", "1", 1e9, "1gbps", "1GBps", "-1Gbps", "0Gbps", "1Gbps ", "fast", True, "10GB/s", 0, float("nan")])
def test_what_is_no_rate_is_refused(written: object) -> None:
    with pytest.raises(ConfigError, match=r"link\.bandwidth must be a rate like"):
        bits_per_s("link.bandwidth", written)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 0.5)), min_size=1, max_size=50))
def test_no_stream_is_ever_ahead_of_its_rate(pieces: list[tuple[int, float]]) -> None:
    """However late its thread was: after t seconds at most rate x t have left."""
    bucket, now, sent = TokenBucket(8_000.0), 100.0, 0
    bucket.begin(now)
    for size, late in pieces:
        now = max(now, bucket.due_s(size, now)) + late
        sent += size
        assert sent <= 1_000 * (now - 100.0) * (1 + 1e-9)


def test_a_stream_that_is_never_late_runs_at_its_rate() -> None:
    bucket, now = TokenBucket(8_000.0), 7.0
    bucket.begin(now)
    for _ in range(100):
        now = bucket.due_s(50, now)
    assert now == pytest.approx(7.0 + 5.0)
    bucket.begin(1000.0)  # idle time is not saved up
    assert bucket.due_s(50, 1000.0) == pytest.approx(1000.05)


def test_a_late_thread_catches_up_a_little_and_no_more() -> None:
    bucket = TokenBucket(8_000.0)
    bucket.begin(0.0)
    bucket.due_s(1, 0.0)
    assert bucket.due_s(1, 50.0) == pytest.approx(50.0 - 0.005 + 0.001)


def test_a_shaped_stream_takes_its_time() -> None:
    buffer = encoded()
    with outbox(bandwidth="4Mbps") as sender, inlet(bandwidth="4Mbps") as receiver:
        began = now_s()
        receiver.fetch(sender.put(buffer)).parcel()
        assert now_s() - began >= 8 * len(buffer) / 4e6
    assert terms(bandwidth="4Mbps").piece_bytes() == 2500
    assert terms().piece_bytes() == 4096


def modelled(engine: Engine, rate: str | None) -> Cell:
    chosen = settings(chain=2)
    return Cell.build(chosen, TASK, [engine] * 2, Raw(), Direct(rate), 2)


def test_a_modelled_bandwidth_changes_no_word_and_is_marked(tiny: Engine) -> None:
    plain, charged = (run_chain(one.agents, [one.prompts(0)], one.jobs([0]))[0] for one in (modelled(tiny, None), modelled(tiny, "1Mbps")))
    assert plain.new_ids == charged.new_ids
    (bare,), (hop,) = plain.hops, charged.hops
    assert (bare.bandwidth_bps, bare.modelled_s) == (None, None)
    assert hop.bandwidth_bps == 1e6
    assert hop.modelled_s == 8 * hop.wire_bytes / 1e6
    assert bare.stages_s is not None
    assert hop.stages_s is not None
    assert bare.stages_s["transfer"] == 0
    assert hop.stages_s["transfer"] == pytest.approx(hop.modelled_s)


def test_the_hand_off_is_charged_and_its_receiver_is_not(tiny: Engine, tmp_path: Path) -> None:
    """1 Kbps: the charge is hundreds of seconds, none of which is spent."""
    one, journal = modelled(tiny, "1Kbps"), Journal(tmp_path / "latency.jsonl", LatencyRecord)
    began = now_s()
    latency.run(one, [Raw()], Timing(1, 0, 5, None, aa=False), journal, no_stop)
    assert now_s() - began < 60
    by_clock = {r.clock: r for r in journal.read()}
    charge = 8 * by_clock["handoff"].wire_bytes / 1e3
    assert charge > 100
    for clock, r in by_clock.items():
        if clock in ("handoff", "stages"):
            assert r.modelled_s == charge
            assert charge < r.seconds < charge + 60
        else:
            assert r.modelled_s is None
            assert r.seconds < 60


def test_a_chain_s_time_holds_what_its_hops_were_charged(tiny: Engine, tmp_path: Path) -> None:
    one, journal = modelled(tiny, "1Kbps"), Journal(tmp_path / "samples.jsonl", SampleRecord)
    one = replace(one, settings=replace(one.settings, batch_size=1))
    for record in quality.run(one, journal, no_stop):
        assert record.end_to_end_s is not None
        charged = sum(hop.modelled_s or 0 for hop in record.hops)
        assert charged > 100
        assert charged < record.end_to_end_s < charged + 60


def test_by_reference_nothing_is_charged(tiny: Engine) -> None:
    hops = run_chain(cell(tiny).agents, [cell(tiny).prompts(0)], cell(tiny).jobs([0]))[0].hops
    assert all(hop.modelled_s is None for hop in hops)


def test_a_charge_is_a_stage() -> None:
    stages = Stages(torch.device("cpu"))
    stages.charge("transfer", 2.5)
    stages.charge("transfer", 1.0)
    assert stages.seconds() == {"transfer": 3.5}
