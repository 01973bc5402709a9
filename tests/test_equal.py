"""The script that gives an agent alone as much computation as a chain."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from synthetic import WORK, write_run

SCRIPT = Path(__file__).parents[1] / "experiments" / "avp_chain" / "equal.py"


def test_an_agent_alone_is_given_the_chain_s_operations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("equal", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    equal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(equal)
    for chain, think in ((1, 0), (4, 20)):
        write_run(tmp_path, ["study=t", "strategy=raw", f"chain={chain}", f"think_steps={think}", "script_tokens=120"], num=3, prefilled=30)
    equal.main(str(tmp_path / "t"), "4", "20")
    tokens = int(capsys.readouterr().out)
    whole = 4 * (30 + 20) * WORK.token_flop + 4 * 20 * WORK.head_flop
    assert abs((30 + tokens) * WORK.token_flop + tokens * WORK.head_flop - whole) <= (WORK.token_flop + WORK.head_flop) / 2
    with pytest.raises(SystemExit, match="run the study's first parts"):
        equal.main(str(tmp_path / "t"), "16", "20")
