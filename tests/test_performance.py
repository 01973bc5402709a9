"""The analysis stays within its time and memory at a tenth of the size that experiments/evidence/performance.py measures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "evidence" / "performance.py"


@pytest.mark.slow
def test_ten_thousand_samples(tmp_path: Path) -> None:
    """Processor time, which other work on the machine changes less than the clock."""
    spec = importlib.util.spec_from_file_location("performance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    performance = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(performance)
    assert performance.generate(tmp_path, 10_000, 2_000) == 5
    _, processor_s, memory_gib = performance.measure(tmp_path)
    assert (tmp_path / "BENCHMARKS.md").exists()
    assert processor_s < 20
    assert memory_gib < 2
