"""batch_size=auto: the largest that fits, found by a device that runs out of memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import cell, no_stop, settings
from runs import folder, go

from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError
from avpbench.phases import blocks, fidelity, quality
from avpbench.phases.blocks import Size
from avpbench.records import FidelityRecord, Journal, SampleRecord, read_samples


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device whose allocator holds so many rows of K/V at once; returns [rows it holds, allocations that failed]."""
    state = [10**6, 0]
    batch = Engine._batch

    def allocate(self: Engine, starts: Any, *rest: Any) -> Any:
        if len(starts) > state[0]:
            state[1] += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(starts)} rows")
        return batch(self, starts, *rest)

    monkeypatch.setattr(Engine, "_batch", allocate)
    return state


def records(engine: Engine, path: Path, limit: int, **changes: object) -> list[SampleRecord]:
    journal = Journal(path, SampleRecord)
    list(quality.run(cell(engine, limit=limit, chain=2, **changes), journal, no_stop))
    return journal.read()


def test_auto_takes_the_largest_power_of_two_that_fits_and_says_what_each_sample_ran_at(
    tiny: Engine, tmp_path: Path, device: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGEST_BATCH", 32)
    device[0] = 11
    found = records(tiny, tmp_path / "auto", 45, batch_size="auto")
    assert [r.batch_size for r in found] == [8] * 40 + [5] * 5
    assert device[1] == 2  # 32 and 16 were tried once each, not again in every block
    device[0] = 10**6
    plain = records(tiny, tmp_path / "plain", 45, batch_size=45)
    assert [(r.sample_id, r.completion) for r in found] == [(r.sample_id, r.completion) for r in plain]


def test_auto_without_a_limit_of_memory_runs_all_at_once(tiny: Engine, tmp_path: Path, device: list[int]) -> None:
    assert {r.batch_size for r in records(tiny, tmp_path / "x", 40, batch_size="auto")} == {40}


def test_memory_that_shrinks_meanwhile_is_met_again(
    tiny: Engine, tmp_path: Path, device: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGEST_BATCH", 8)
    device[0] = 8
    journal = Journal(tmp_path / "x", SampleRecord)
    run = quality.run(cell(tiny, limit=24, chain=2, batch_size="auto"), journal, no_stop)
    for place, _ in enumerate(run):
        if place == 0:
            device[0] = 3
    assert [r.batch_size for r in journal.read()] == [8] * 8 + [2] * 16


def test_what_does_not_fit_alone_is_recorded_as_such(tiny: Engine, tmp_path: Path, device: list[int]) -> None:
    device[0] = 0
    assert {(r.status, r.batch_size) for r in records(tiny, tmp_path / "x", 6, batch_size="auto")} == {("oom", 1)}


def test_a_resumed_auto_run_computes_what_the_first_would_have(
    tiny: Engine, tmp_path: Path, device: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGEST_BATCH", 16)
    device[0] = 5
    whole = records(tiny, tmp_path / "whole", 20, batch_size="auto")
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    (tmp_path / "torn").write_text("".join(lines[:10]))
    resumed = records(tiny, tmp_path / "torn", 20, batch_size="auto")
    strip = [(r.sample_id, r.completion, r.batch_size) for r in whole]
    assert [(r.sample_id, r.completion, r.batch_size) for r in resumed] == strip


def test_fidelity_finds_its_own(tiny: Engine, tmp_path: Path, device: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST_BATCH", 8)
    device[0] = 3
    journal = Journal(tmp_path / "x", FidelityRecord)
    fidelity.run(cell(tiny, limit=6, chain=2, batch_size="auto"), journal, no_stop)
    assert len(journal.read()) == 6
    assert device[1] >= 2


@pytest.mark.parametrize(("tried", "left"), [(64, 32), (40, 32), (33, 32), (32, 16), (1, 1)])
def test_only_auto_shrinks(tried: int, left: int) -> None:
    size = Size("auto")
    size.now = 64
    size.did_not_fit(tried)
    assert size.now == left
    fixed = Size(64)
    fixed.did_not_fit(tried)
    assert fixed.now == 64


def test_auto_is_a_value_of_the_config(tmp_path: Path) -> None:
    go(tmp_path, "limit=3", "batch_size=auto")
    assert [r.batch_size for r in read_samples(folder(tmp_path, "batch_size=auto"))] == [3] * 3
    assert json.loads((folder(tmp_path, "batch_size=auto") / "meta.json").read_text())["config"]["batch_size"] == "auto"
    with pytest.raises(ConfigError, match=r"batch_size must be a whole number >= 1 or auto \(the largest that fits\), got 'most'"):
        settings(batch_size="most")
