"""The analysis stays within its time and memory at a tenth of the size that experiments/evidence/performance.py measures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "evidence" / "performance.py"


@pytest.mark.slow
def test_ten_thousand_samples(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("performance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    performance = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(performance)
    performance.generate(tmp_path, 10_000)
    _, processor_s, memory_gib = performance.measure(tmp_path)
    assert performance.gaps(tmp_path) == []
    assert processor_s < 20, "what ten times as many may take"
    assert memory_gib < 1
