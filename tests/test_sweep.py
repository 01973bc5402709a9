"""A multirun: impossible cells are skipped, equal ones run once, a model is loaded once, a study brings its own grid."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

import avpbench.engine.load as loading
from avpbench.__main__ import main
from avpbench.config import composing
from avpbench.engine.load import Kept, Source, load
from avpbench.sweep import opened

OWN = Path(__file__).parent / "conf"
FAST = ("tracker=console", "latency=off", "gates=off", "limit=1", "max_agent_tokens=4", "max_new_tokens=4")
CPU = torch.device("cpu")


def summaries(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(store.glob("*/*/summary.json"))]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were loaded, in order; nothing is kept from an earlier test."""
    seen: list[str] = []
    real = load

    def counted(source: Source, device: torch.device, dtype: torch.dtype) -> Any:
        seen.append(f"{source.name} {source.zoo or source.seed} {dtype}")
        return real(source, device, dtype)

    monkeypatch.setattr(loading, "load", counted)
    monkeypatch.setattr("avpbench.setup.KEPT", Kept())
    return seen


@pytest.mark.slow
def test_a_grid_with_impossible_cells_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "-m",
        "strategy=raw,adaptive,text",
        "strategy/controller=uniform,snapkv",
        "think_steps=2",
        "chain=2",
        *FAST,
        f"results={tmp_path}",
    ]
    assert main(words) == 0
    told = capsys.readouterr().out
    found = summaries(tmp_path)
    assert sorted((s["strategy"], s["controller"]) for s in found) == [("quantized", "snapkv"), ("quantized", "uniform"), ("raw", None)]
    assert "grid: 3 cells to run; 2 of 6 combinations are another's cell and run once; left out" in told
    assert "skipped, impossible: strategy=text: strategy=text hands over words" in told
    assert told.count("skipped, impossible") == 1


@pytest.mark.slow
def test_a_part_that_does_not_vary_is_left_out_too(tmp_path: Path) -> None:
    words = [
        "-m",
        "strategy=raw,adaptive",
        "strategy/controller=uniform",
        "strategy.budget_bits=5",
        "chain=2",
        *FAST,
        f"results={tmp_path}",
    ]
    assert main(words) == 0
    assert sorted((s["strategy"], s["controller"], s["budget_bits"]) for s in summaries(tmp_path)) == [
        ("quantized", "uniform", 5.0),
        ("raw", None, None),
    ]


def test_parts_are_left_to_the_sweeper() -> None:
    words = [
        "-m",
        "chain=2",
        "strategy/controller=uniform",
        "strategy/codec=affine,kivi",
        "strategy.budget_bits=range(2,4)",
        "strategy=raw",
    ]
    assert opened(words) == [
        "-m",
        "chain=2",
        "strategy/controller=choice(uniform)",
        "strategy/codec=choice(affine,kivi)",
        "strategy.budget_bits=range(2,4)",
        "strategy=raw",
    ]


@pytest.mark.slow
def test_twelve_cells_of_one_model_load_it_once(tmp_path: Path, loads: list[str]) -> None:
    words = ["-m", "strategy=raw,reprefill,text,blank", "chain=2", "seed=0,1,2", *FAST, f"results={tmp_path}"]
    assert main(words) == 0
    assert len(summaries(tmp_path)) == 12
    assert loads == ["tiny tiny-0 torch.float32"]


@pytest.mark.slow
def test_another_dtype_is_another_load_and_cells_of_one_stand_together(tmp_path: Path, loads: list[str]) -> None:
    words = ["-m", "chain=2,3", "dtype=float32,bfloat16", *FAST, f"results={tmp_path}"]
    assert main(words) == 0
    assert loads == ["tiny tiny-0 torch.float32", "tiny tiny-0 torch.bfloat16"]


def test_what_the_next_cell_does_not_ask_for_is_let_go_before_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    tiny, other = Source("tiny", zoo="tiny-0"), Source("again", zoo="tiny-0")
    first, second = kept.load([tiny, tiny], CPU, torch.float32)
    assert first is second
    assert kept.load([tiny, other], CPU, torch.float32)[0] is first
    assert kept.holds([tiny, other], CPU, torch.float32)
    assert not kept.holds([tiny], CPU, torch.bfloat16)
    gone = weakref.ref(first)
    del first, second
    alive: list[bool] = []
    real = load

    def looked(*asked: Any) -> Any:
        alive.append(gone() is not None)
        return real(*asked)

    monkeypatch.setattr(loading, "load", looked)
    kept.load([other], CPU, torch.bfloat16)
    assert alive == [False]


@pytest.mark.slow
def test_what_shows_only_when_a_cell_is_built_is_skipped_as_well_and_a_missing_model_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [word for word in FAST if not word.startswith("max_new")]
    words = ["-m", "chain=2", *few, "max_new_tokens=4,8191", f"results={tmp_path}"]
    assert main(words) == 0
    assert "skipped, impossible: " in (told := capsys.readouterr().out)
    assert "a chain of 2 may take" in told
    assert main(["-m", "chain=2", "seed=0,1", *FAST, "model.path=/nowhere", "model.name=mine", f"results={tmp_path}"]) == 1
    assert "failed: " in capsys.readouterr().out


def test_a_grid_of_which_no_cell_can_run_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "chain=0,-1", *FAST, f"results={tmp_path}"]) == 1
    caught = capsys.readouterr()
    assert "avpbench: no cell of this grid can run: chain must be a whole number >= 1, got 0" in caught.err
    assert "Traceback" not in caught.err
    assert main(["-m", "seed=0,1", *FAST, f"results={tmp_path}", "max_hours=1"]) == 1
    assert "nothing like 2 of these cells was ever run here" in capsys.readouterr().err
    assert main(["-m", "temperature=interval(0,1)", *FAST, f"results={tmp_path}"]) == 1
    assert "cannot be counted off" in capsys.readouterr().err
    assert main(["-m", "seed=0,1", *FAST, "results=/proc/none"]) == 1
    assert "/proc/none" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_brings_its_grid_its_name_and_its_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "--config-dir", str(OWN), "experiment=example", "gates=off", "limit=1", f"results={tmp_path}"]
    assert main([*words, "chain=2"]) == 0  # what is typed replaces the study's own
    found = summaries(tmp_path)
    assert {path.parent.parent.name for path in tmp_path.glob("*/*/summary.json")} == {"example"}
    assert sorted((s["controller"], s["chain"], s["budget_bits"]) for s in found) == [("recency", 2, 6.0), ("uniform", 2, 6.0)]
    capsys.readouterr()
    assert main(["plan", *words]) == 0
    told = capsys.readouterr().out
    assert "2 done, 2 to do" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=example"], "a study is a grid: python -m avpbench -m experiment=example"),
        (["-m", "experiment=example,other"], "one study at a time"),
        (["-m", "experiment=exmple"], "did you mean example"),
        (["-m", "--config-dir", "/nowhere", "experiment=example"], "there is no such folder"),
        (["-m", "--config-dir=/nowhere", "experiment=example"], "there is no such folder"),
    ],
)
def test_a_study_that_is_asked_for_wrongly_is_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = [] if any(word.startswith("--config-dir") for word in words) else ["--config-dir", str(OWN)]
    assert main([*own, *words]) == 1
    assert message in capsys.readouterr().err


class Launcher:
    """Any launcher: it is given lists of overrides and nothing else."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def launch(self, batch: Any, initial_job_idx: int) -> list[Any]:
        self.batches.append([list(overrides) for overrides in batch])
        return []


def swept(tmp_path: Path, words: list[str], batch: int | None = None, params: dict[str, str] | None = None) -> list[Any]:
    """What a launcher is given."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    with composing():
        master = OmegaConf.create(
            {"hydra": {"overrides": {"hydra": []}, "runtime": {"config_sources": []}, "sweep": {"dir": str(tmp_path / "sweep")}}}
        )
        found = Plugins.instance().class_name_to_class["hydra_plugins.avpbench_sweeper.sweeper.AvpBenchSweeper"]
        sweeper: Any = found(batch, params)
        sweeper.config = master
        sweeper.launcher = launcher = Launcher()
        loader = GlobalHydra.instance().config_loader()
        sweeper.hydra_context = HydraContext(config_loader=loader, callbacks=None)  # type: ignore[arg-type]
        sweeper.sweep(words)
    return launcher.batches


def test_every_launcher_gets_lists_of_overrides(tmp_path: Path) -> None:
    results = f"results={tmp_path}"
    batches = swept(tmp_path, ["strategy=raw,adaptive", "strategy/controller=uniform,snapkv", results])
    assert batches == [
        [
            ["strategy=raw", results],
            ["strategy=adaptive", "strategy/controller=uniform", results],
            ["strategy=adaptive", "strategy/controller=snapkv", results],
        ]
    ]
    assert [len(batch) for batch in swept(tmp_path, ["seed=range(5)", results], batch=2)] == [2, 2, 1]
    assert swept(tmp_path, ["seed=7", results], params={"seed": "1,2", "chain": "2"}) == [[["seed=7", "chain=2", results]]]


def test_the_sweeper_takes_words_as_hydra_reads_them(tmp_path: Path) -> None:
    results = f"results={tmp_path}"
    (batch,) = swept(tmp_path, ["study=a,'b'", "latency.against=[text,raw]", "task.level=easy", results])
    for words in batch:
        parsed = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(words)}
        assert parsed["latency.against"] == ["text", "raw"]
        assert parsed["study"] in ("a", "b")
    with pytest.raises(HydraException):
        swept(tmp_path, ["chain=[", results])
