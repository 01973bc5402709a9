"""link=remote: agents in worker processes say what they say in one process, and a process that dies costs a turn at most."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import no_stop
from peers import within

from avpbench.aggregate import clocks
from avpbench.build import build
from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.config import compose, strategy_config
from avpbench.core import Parcel
from avpbench.errors import ConfigError, IncompatibleModels, LinkError
from avpbench.links.direct import Direct
from avpbench.meter import NO_STAGES
from avpbench.phases import latency, quality
from avpbench.phases.hop import Timing
from avpbench.records import CLOCKS, Journal, LatencyRecord, SampleRecord
from avpbench.remote import secret as secrets
from avpbench.remote.crew import Crew, RemoteAgent
from avpbench.remote.messages import answered, failure, note
from avpbench.setup import cell_of
from avpbench.strategies.raw import Raw
from avpbench.strategies.strategy import Strategy

WORDS = (
    "strategy=raw",
    "chain=3",
    "limit=6",
    "batch_size=3",
    "max_agent_tokens=9",
    "max_new_tokens=12",
    "device=cpu",
    "dtype=float32",
    "threads=1",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def remote() -> Iterator[Cell]:
    """One crew of two processes for all tests here: it must survive them."""
    cell = cell_of(compose([*WORDS, "latency.against=[reprefill,text,uniform]", "link=remote"]))
    assert cell.crew is not None
    yield cell
    cell.crew.close()


def crew_of(cell: Cell) -> Crew:
    assert cell.crew is not None
    return cell.crew


def go(cell: Cell, indices: list[int]) -> list[ChainResult]:
    return run_chain(cell.players, [cell.prompts(i) for i in indices], cell.jobs(indices))


def said(results: list[ChainResult]) -> list[object]:
    return [(r.new_ids, r.turns, [(h.strategy, h.wire_bytes, h.cache_bytes, h.num_values) for h in r.hops]) for r in results]


def test_two_processes_say_what_one_says(remote: Cell) -> None:
    direct = cell_of(compose([*WORDS, "link=direct"]))
    here, there = go(direct, [0, 1, 2]), go(remote, [0, 1, 2])
    assert said(here) == said(there)
    assert [r.completion for r in here] == [r.completion for r in there]
    for result in there:
        sender, middle = ({hop.sender_pid, hop.receiver_pid} for hop in result.hops)
        assert sender == middle == {p.pid for p in crew_of(remote).processes}
        assert len(sender | {os.getpid()}) == 3
        assert all(hop.bandwidth_bps is None and hop.modelled_s is None for hop in result.hops)
    with pytest.raises(AssertionError):
        _ = there[0].state  # K/V stay in their process


def test_sampling_and_thinking_agree_too(remote: Cell) -> None:
    for changes in ({"think_steps": 2}, {"donor": "other"}):
        base = cell_of(compose([*WORDS, "link=direct"]))
        chosen = replace(base.settings, **changes)  # type: ignore[arg-type]
        here, there = (go(replace(one, settings=chosen), [0, 1]) for one in (base, remote))
        assert said(here) == said(there), changes
    warm = replace(remote.settings, sampling=replace(remote.settings.sampling, temperature=1.0))
    here, there = (go(replace(one, settings=warm), [3, 4]) for one in (base, remote))
    assert said(here) == said(there)


@pytest.mark.parametrize("name", ["reprefill", "text", "uniform"])
def test_every_kind_of_parcel_agrees(remote: Cell, name: str) -> None:
    strategy: Strategy = build(strategy_config(name))
    prompts, jobs = [remote.prompts(i) for i in (0, 1)], remote.jobs([0, 1])
    here = run_chain(remote.through(strategy, Direct()).agents, prompts, jobs)
    there = run_chain(crew_of(remote).players(strategy), prompts, remote.jobs([0, 1]))
    assert said(here) == said(there)


def test_one_sample_has_the_stages_of_both_processes(remote: Cell) -> None:
    for hop in go(remote, [0])[0].hops:
        assert hop.stages_s is not None
        assert list(hop.stages_s) == ["export", "encode", "transfer", "decode", "inject", "prefill", "first_token", "generate"]


@pytest.mark.parametrize("place", [0, 1])
def test_a_process_killed_between_turns_is_replaced(remote: Cell, place: int) -> None:
    before = said(go(remote, [0, 1]))
    process = crew_of(remote).processes[place]
    old = process.pid
    os.kill(old, signal.SIGKILL)
    assert said(go(remote, [0, 1])) == before
    assert process.pid != old


def test_a_receiver_killed_in_its_turn_is_replaced_and_the_parcel_is_served_again(remote: Cell) -> None:
    """It dies with the request in hand; the sender still has what it laid ready, so the turn is done by the next process."""
    players, prompts, jobs = remote.players, remote.prompts(0), remote.jobs([0])
    first = players[0].turn([None], [prompts[0]], jobs[0], players[1].spec)[0]
    assert first.out is not None
    process = crew_of(remote).processes[1]
    process.ask("load")
    os.kill(process.pid, signal.SIGSTOP)  # so that it is surely in the middle
    threading.Timer(0.5, os.kill, (process.pid, signal.SIGKILL)).start()
    again = players[1].turn([first.out.message], [prompts[1]], jobs[1], None)[0]
    assert again.new_ids == go(remote, [0])[0].new_ids[1]


def test_a_sender_that_dies_with_its_parcel_is_an_error_at_once_and_the_samples_are_done_again(remote: Cell, tmp_path: Path) -> None:
    players, prompts, jobs = remote.players, remote.prompts(0), remote.jobs([0])
    first = players[0].turn([None], [prompts[0]], jobs[0], players[1].spec)[0]
    assert first.out is not None
    os.kill(crew_of(remote).processes[0].pid, signal.SIGKILL)
    with within(30), pytest.raises(LinkError, match="went away"):
        players[1].turn([first.out.message], [prompts[1]], jobs[1], None)
    records = list(quality.run(remote, Journal(tmp_path / "samples.jsonl", SampleRecord), no_stop))
    assert [r.status in ("ok", "truncated") for r in records] == [True] * 6


def test_a_problem_alone_outlives_the_death_of_its_sender(remote: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first agent's process is killed as soon as it has laid its parcel ready, in a run of one problem at a time."""
    turn, killed = RemoteAgent.turn, []

    def deadly(self: RemoteAgent, *given: Any, **named: Any) -> Any:
        turned = turn(self, *given, **named)
        if not killed:
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
        return turned

    monkeypatch.setattr(RemoteAgent, "turn", deadly)
    alone = replace(remote, settings=replace(remote.settings, batch_size=1))
    records = list(quality.run(alone, Journal(tmp_path / "samples.jsonl", SampleRecord), no_stop))
    assert len(killed) == 1
    assert [r.status in ("ok", "truncated") for r in records] == [True] * 6


def test_a_process_that_hangs_is_ended_at_the_deadline(remote: Cell) -> None:
    crew = crew_of(remote)
    go(remote, [0])
    patient, process = crew.processes[1]._terms, crew.processes[1]
    process._terms = replace(patient, turn_s=1.0)
    os.kill(process.pid, signal.SIGSTOP)
    with within(20), pytest.raises(LinkError, match=r"did not answer 'turn' within link\.turn_s=1"):
        go(remote, [0])
    process._terms = patient
    assert len(go(remote, [0])) == 1


def test_a_worker_with_other_models_is_refused(remote: Cell) -> None:
    process = crew_of(remote).processes[0]
    known = process._specs
    process.end()
    process._specs = {place: replace(spec, weights_id="0" * 32) for place, spec in known.items()}
    with pytest.raises(IncompatibleModels, match="loaded other models: agent 1"):
        process.ask("load")
    process._specs = known
    assert len(go(remote, [0])) == 1


def test_what_a_worker_raises_comes_out_as_itself(remote: Cell) -> None:
    player = remote.players[0]
    with pytest.raises(ConfigError, match="do not fit tiny's window"):
        player.turn([None], [replace(remote.prompts(0)[0], words="word " * 5000)], remote.jobs([0])[0], None)
    with pytest.raises(LinkError, match="no such message"):
        crew_of(remote).processes[0].ask("dance")
    with pytest.raises(LinkError, match="the worker failed: TypeError"):
        crew_of(remote).processes[0].ask("turn", place=0, strategy="raw", hold=None, more=1, messages=None)
    assert len(go(remote, [0])) == 1


def test_a_malformed_answer_is_a_link_error() -> None:
    with pytest.raises(LinkError, match="malformed"):
        answered(note("error", words="?"))
    with pytest.raises(LinkError, match="the worker failed: ZeroDivisionError: division by zero"):
        answered(failure(ZeroDivisionError("division by zero")))


def test_latency_times_the_real_path(remote: Cell, tmp_path: Path) -> None:
    rivals: list[Strategy] = [build(strategy_config(name)) for name in ("reprefill", "text")]
    for timing in (Timing(2, 1, 7, None, aa=False), Timing(2, 0, 7, 100, aa=False)):
        journal = Journal(tmp_path / f"{timing.prefix_tokens}.jsonl", LatencyRecord)
        latency.run(remote, [Raw(), *rivals], timing, journal, no_stop)
        rows = journal.read()
        assert {(r.strategy, r.clock) for r in rows} == {(s, c) for s in ("raw", "reprefill", "text") for c in CLOCKS}
        raw = [r for r in rows if r.strategy == "raw"]
        assert {r.new_tokens for r in rows} == {7}
        assert len({r.prefix_tokens for r in rows if r.strategy != "text" and r.block == 0}) == 1
        assert all(r.modelled_s is None and r.wire_bytes > 0 for r in rows)
        assert all(list(r.stages_s or {})[:4] == ["export", "encode", "transfer", "decode"] for r in raw if r.clock == "stages")
        host, handoff = (sum(r.seconds for r in raw if r.clock == clock) for clock in ("host", "handoff"))
        assert 0 < host < handoff
        assert clocks(rows, "raw").num_blocks == 2


def test_parcels_cross_in_one_process_too(remote: Cell) -> None:
    """The link by itself: what is sent here is fetched here, through the sockets."""
    agent = remote.agents[0]
    prompt = remote.prompts(0)[0]
    state, _ = agent.act([agent.receive(None, prompt)], [prompt], remote.jobs([0])[0])[0]
    parcel: Parcel = Raw().export(state, agent.engine, agent.spec)
    message = agent.link.send(parcel, NO_STAGES)
    back = agent.link.receive(agent.link.fetch(message, NO_STAGES), NO_STAGES)
    assert back.card.body == parcel.card.body
    assert all((back.tensors[name] == t).all() for name, t in parcel.tensors.items())


def test_a_whole_run_and_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avpbench import run

    monkeypatch.setattr(secrets, "fresh", lambda: b"\x5a" * 32)

    summary = run(
        *WORDS, "link=remote", "tracker=console", "latency.repeats=1", "gates=off", "limit=2", "chain=2", f"results={tmp_path}",
        "link.bandwidth=1Gbps",
    ).row()  # fmt: skip
    assert summary["link"] == "remote"
    assert summary["bandwidth"] == "1Gbps shaped"
    assert summary["break_even"] is not None
    assert summary["reprefill_flops"] > 0
    folder = next(tmp_path.rglob("samples.jsonl")).parent
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {hop["bandwidth_bps"] for s in samples for hop in s["hops"]} == {1e9}
    assert not any("5a" * 32 in p.read_text() for p in folder.iterdir())
