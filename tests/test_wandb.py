"""W&B is a view: one run a cell, offline without a key, read back from its own log; the records do without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_run import folder, go

from avpbench.records import HopRecord, SampleRecord, TurnRecord
from avpbench.trackers.wandb import hop_history


def read_back(path: Path) -> str:
    """Everything in the run's .wandb log, as wandb's own reader prints it."""
    logs = sorted(path.rglob("*.wandb"))
    assert logs
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(logs[-1])], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_key")
def test_an_offline_run_holds_config_history_summary_and_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("tracker=wandb", "limit=5", "chain=3")
    summary = go(tmp_path, *words)
    assert "wandb sync" in capsys.readouterr().out
    text = read_back(folder(tmp_path, *words))
    assert summary["cell"] in text
    for wanted in ("hop/wire_bytes", "accuracy_low", "progress/accuracy", "max_agent_tokens", "records-", "samples"):
        assert wanted in text, wanted


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
        return SampleRecord("a", "1", "1", True, "ok", "", turns, (HopRecord("raw", None, 1, 1, wire, 4, None),) * 2, 1)

    rows = hop_history([sample(100), sample(300)])
    assert [row["hop"] for row in rows] == [1, 2]
    assert rows[0]["hop/wire_bytes"] == 200
    assert rows[1]["hop/cached_tokens"] == 20
    assert json.dumps(rows)
