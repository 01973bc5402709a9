"""W&B is a view: one run a cell, offline without a key, read back from its own log; the records do without it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import folder, go

from avpbench.phases import quality
from avpbench.records import HopRecord, SampleRecord, TurnRecord, read_samples
from avpbench.stop import Preempted
from avpbench.trackers.wandb import hop_history


def read_back(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The run's .wandb log by type of record, as wandb's own reader prints it."""
    logs = sorted(path.rglob("*.wandb"))
    assert logs
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(logs[-1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        found.setdefault(record["type"], []).append(record[record["type"]])
    return found


@pytest.fixture
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_key")
def test_an_offline_run_holds_config_history_summary_and_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("tracker=wandb", "limit=5", "chain=3", "strategy=raw")
    summary = go(tmp_path, *words)
    assert "wandb sync" in capsys.readouterr().out
    path = folder(tmp_path, *words)
    found = read_back(path)
    (run,) = found["run"]
    assert (run["run_id"], run["run_group"], run["job_type"]) == (f"adhoc-{summary['cell']}", "adhoc", "raw")
    assert run["tags"] == ["wordmath", "tiny", "chain3", "first"]
    assert run["config"]["update"]["max_agent_tokens"] == 12
    steps = {m.get("glob_name") or m.get("name"): m.get("step_metric") for m in found["metric"]}
    assert steps["hop/*"] == "hop"
    assert steps["progress/*"] == "progress/num_samples"
    rows = [record["item"] for record in found["history"]]
    assert [row["progress/num_samples"] for row in rows if "progress/num_samples" in row] == [1, 2, 3, 4, 5]
    samples = read_samples(path)
    by_hop = {row["hop"]: row["hop/wire_bytes"] for row in rows if "hop" in row}
    assert by_hop == {k + 1: pytest.approx(sum(s.hops[k].wire_bytes for s in samples) / 5) for k in range(2)}
    told: dict[str, Any] = {}
    for record in found["summary"]:
        told |= record.get("update", {})
    wanted = ("accuracy_low", "accuracy_high", "num_samples")
    assert {k: told[k] for k in wanted} == {k: summary[k] for k in wanted}
    files = {entry["path"] for record in found["artifact"] for entry in record["manifest"]["contents"]}
    assert {"samples.table.json", "samples.jsonl", "summary.json", "meta.json", "config.yaml"} <= files


@pytest.mark.slow
@pytest.mark.usefixtures("_no_key")
def test_a_preempted_run_is_marked_as_such_and_goes_on_as_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("tracker=wandb", "limit=8")
    run_chain = quality.run_chain

    def disturbed(*args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return run_chain(*args)

    with monkeypatch.context() as patched:
        patched.setattr(quality, "run_chain", disturbed)
        with pytest.raises(Preempted):
            go(tmp_path, *words)
    path = folder(tmp_path, *words)
    (first,) = path.glob("wandb/offline-run-*")
    found = read_back(first)
    assert "preempting" in found
    assert [row["exit_code"] for row in found["exit"]] == [1]
    go(tmp_path, *words)
    (second,) = set(path.glob("wandb/offline-run-*")) - {first}
    again = read_back(second)
    assert "preempting" not in again
    assert again["run"][0]["run_id"] == found["run"][0]["run_id"]


def test_a_tracker_that_fails_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse(**kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(wandb, "init", refuse)
    assert go(tmp_path, "tracker=wandb", "limit=2")["num_samples"] == 2
    assert "W&B is left out (OSError: no route to host)" in capsys.readouterr().out


def test_a_tracker_that_breaks_meanwhile_does_not_cost_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    class Broken:
        dir = "x/files"

        def define_metric(self, *args: object, **kwargs: object) -> None: ...

        def log(self, row: object) -> None:
            raise OSError("the service died")

    monkeypatch.setattr(wandb, "init", lambda **kwargs: Broken())
    assert go(tmp_path, "tracker=wandb", "limit=3")["num_samples"] == 3


def test_without_wandb_everything_else_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert go(tmp_path, "tracker=wandb", "limit=2")["num_samples"] == 2
    assert "wandb is not installed" in capsys.readouterr().out


def test_the_history_is_by_hop() -> None:
    def sample(wire: int) -> SampleRecord:
        turns = tuple(TurnRecord("x", "m", "", "stop", 10 * k, k, 2, 0, 5) for k in range(3))
        return SampleRecord("a", "1", "1", True, "ok", "", turns, (HopRecord("raw", None, 1, 1, wire, 4, 1, None),) * 2, 1)

    rows = hop_history([sample(100), sample(300)])
    assert [row["hop"] for row in rows] == [1, 2]
    assert rows[0]["hop/wire_bytes"] == 200
    assert rows[1]["hop/cached_tokens"] == 20
    assert json.dumps(rows)
