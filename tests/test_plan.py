"""plan: what a grid would do, told from configs and the store, without torch."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import PARAMETERS

from avpbench.__main__ import main
from avpbench.config import compose, identify_plain, model_config, plain
from avpbench.errors import ConfigError
from avpbench.estimate import History, Past, memory_bytes, shape_of
from avpbench.legal import check
from avpbench.meta import here
from avpbench.source import class_source
from avpbench.store import Wanted

FAST = ("tracker=console", "latency=off", "gates=off", "max_agent_tokens=4", "max_new_tokens=4", "chain=2")


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """The status and the plan as JSON."""
    capsys.readouterr()
    status = main(["plan", "-m", *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def values_of(*words: str) -> dict[str, Any]:
    return plain(compose(list(words)))


def a_run(store: Path, values: dict[str, Any], samples: int, **changes: Any) -> Path:
    """A run's folder as far as a plan reads it."""
    identity = identify_plain(values)
    folder = store / identity.study / identity.folder
    folder.mkdir(parents=True)
    rows = [{"sample_id": f"s{i}", "correct": i % 2 == 0, "status": "ok"} for i in range(samples)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    meta = {
        "cell": identity.hash, "config": values, "identity": here() | {"device": "cpu-x86_64"}, "num_samples": values["limit"],
        "spent": {"ready": {"seconds": 3.0, "count": 1}, "quality": {"seconds": 2.0 * samples, "count": samples}}, "earlier": [],
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta | changes))
    return folder


def test_done_partial_to_do_and_impossible(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avpbench.estimate.has_gpu", lambda: False)
    words = (*FAST, f"results={tmp_path}", "limit=10")
    done = a_run(tmp_path, values_of("strategy=raw", *words), 10)
    (done / "summary.json").write_text("{}")
    a_run(tmp_path, values_of("strategy=blank", *words), 4)
    before = sorted(p.stat().st_mtime_ns for p in tmp_path.rglob("*"))
    status, plan = planned(capsys, "strategy=raw,blank,reprefill,text", "think_steps=0", *words)
    assert status == 0
    rows = {row["given"]: row for row in plan["cells"]}
    assert [(k.split("=")[1], r["state"], r["samples_left"], r["seconds"]) for k, r in rows.items()] == [
        ("raw", "done", 0, 0.0),
        ("blank", "partial", 6, 3.0 + 6 * 2.0),
        ("reprefill", "to do", 10, 3.0 + 10 * 2.0),  # from the runs most like it
        ("text", "to do", 10, 23.0),
    ]
    assert plan["seconds"] == 15.0 + 23.0 + 23.0
    assert plan["counts"] == {"done": 1, "partial": 1, "to do": 2, "refused": 0, "impossible": 0}
    assert sorted(p.stat().st_mtime_ns for p in tmp_path.rglob("*")) == before  # nothing is written
    _, plan = planned(capsys, "strategy=raw,text", "think_steps=0,2", *words)
    assert plan["counts"] == {"done": 1, "partial": 0, "to do": 2, "refused": 0, "impossible": 1}
    (why,) = [row["why"] for row in plan["cells"] if row["state"] == "impossible"]
    assert "strategy=text hands over words" in why


def test_max_hours_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avpbench.estimate.has_gpu", lambda: False)
    words = (*FAST, f"results={tmp_path}", "limit=10", "seed=1,2")
    a_run(tmp_path, values_of("seed=0", *words[:-1]), 10)
    seconds = 2 * 23.0
    assert main(["plan", "-m", *words, f"max_hours={(seconds + 1) / 3600}"]) == 0
    assert main(["plan", "-m", *words, f"max_hours={(seconds - 1) / 3600}"]) == 1
    assert "would take about 0.01 h, max_hours=0.0125 allows less" in capsys.readouterr().err
    assert main(["-m", *words, f"max_hours={(seconds - 1) / 3600}"]) == 1  # and so does the run itself
    assert "allows less" in capsys.readouterr().err
    assert main(["plan", "-m", *words, "model=qwen0.5b", "task=wordmath", "max_hours=5"]) == 1
    caught = capsys.readouterr()
    assert "nothing like 2 of these cells was ever run here" in caught.err
    assert "2 cells of unknown time" in caught.out
    assert main(["plan", "-m", *words, "max_hours=-1"]) == 1
    assert "max_hours must be a number from 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cell": "0000000000"}, "its folder holds cell 0000000000, another one"),
        ({"identity": here() | {"code": "other"}}, "its folder holds records of a run that differs in code (other then"),
        (None, "meta.json is not readable as JSON"),
    ],
)
def test_a_folder_that_a_run_would_refuse_is_named(
    change: dict[str, Any] | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*FAST, f"results={tmp_path}", "limit=5")
    folder = a_run(tmp_path, values_of(*words), 2, **(change or {}))
    if change is None:
        (folder / "meta.json").write_text('{"cell": ')
    _, plan = planned(capsys, *words)
    (row,) = plan["cells"]
    assert row["state"] == "refused"
    assert why in row["why"]
    _, plan = planned(capsys, *words, "resume=anyway")
    assert plan["cells"][0]["state"] == ("partial" if change and "identity" in change else "refused")


def test_torn_and_repeated_lines_do_not_count_and_broken_ones_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*FAST, f"results={tmp_path}", "limit=10")
    folder = a_run(tmp_path, values_of(*words), 3)
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"sample_id": "s2", "correct": true, "status": "ok"}\n{"sample_id": "s9", "corr')
    _, plan = planned(capsys, *words)
    assert plan["cells"][0]["samples_left"] == 7
    with (folder / "samples.jsonl").open("a") as file:
        file.write("\n")
    _, plan = planned(capsys, *words)
    assert plan["cells"][0]["why"] == "not a record: samples.jsonl:5; repair or remove the line"
    _, plan = planned(capsys, *words, "resume=never")
    assert (plan["cells"][0]["state"], plan["cells"][0]["samples_left"]) == ("to do", 10)
    (folder / "meta.json").unlink()
    _, plan = planned(capsys, *words, "resume=anyway")
    assert "records and no meta.json" in plan["cells"][0]["why"]


def test_a_glob_is_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, plan = planned(capsys, *FAST, f"results={tmp_path}", "limit=1", "strategy=glob(r*)")
    assert {"strategy=raw", "strategy=reprefill"} <= {row["given"] for row in plan["cells"]}


def test_it_shows_what_hydra_dies_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["plan", "-m", "strategy=raw,adaptive", "strategy/controller=uniform", f"results={tmp_path}", "model=qwen0.5b", "limit=null"])
        == 0
    )
    told = capsys.readouterr().out
    assert "grid: 2 cells to run" in told
    assert "strategy=adaptive" in told
    assert "those of cells of unknown size" in told
    assert main(["plan", "-m", f"results={tmp_path}", "seed=range(90)"]) == 0
    assert "... 50 more cells; --json names them all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chain=0"], "no cell of this grid can run: chain must be"),
        (["strategy=rwa"], "did you mean raw"),
        (["--cfg", "job"], "'job' is not KEY=VALUE"),
        (["--verbose"], "plan takes --json, --probe and overrides"),
        (["nonsense"], "is not KEY=VALUE"),
        (["chain=[1"], ""),
    ],
)
def test_bad_plans_are_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", *words]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("\navpbench: ")


@pytest.mark.slow
def test_ten_thousand_cells_take_seconds_and_no_torch(tmp_path: Path) -> None:
    words = [
        "strategy=raw,text,blank,adaptive",
        "strategy/controller=uniform,snapkv,recency",
        "chain=2,4",
        "seed=range(834)",
        f"results={tmp_path}",
        "--json",
    ]
    code = (
        "import sys\nfrom avpbench.__main__ import main\nstatus = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'transformers', 'wandb', 'pandas', 'scipy', 'datasets'} & set(sys.modules)), file=sys.stderr)\nsys.exit(status)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, "plan", "-m", *words], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["cells"]) == 2 * 834 * 6 == 10_008
    assert done.stderr.strip() == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10  # 4 s on idle cores: experiments/sweeps


@pytest.mark.slow
def test_a_probe_runs_one_block_that_the_cell_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*FAST, f"results={tmp_path}", "limit=6", "batch_size=2", "seed=0,1", "strategy=blank")
    status, plan = planned(capsys, *words, "--probe")
    assert status == 0
    assert [(row["state"], row["samples_left"]) for row in plan["cells"]] == [("partial", 4), ("to do", 6)]
    assert plan["num_unknown"] == 0
    assert plan["seconds"] > 0
    status, plan = planned(capsys, *words, "batch_size=auto", f"results={tmp_path / 'auto'}", "--probe")
    assert (status, plan["num_unknown"]) == (0, 0)
    assert [row["samples_left"] for row in plan["cells"]] == [0, 6]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_counted_from_the_shape(name: str) -> None:
    found = shape_of(None, json.dumps(plain(model_config(name))["shape"]))
    assert found is not None
    assert found.parameters == pytest.approx(PARAMETERS[name], rel=0.002)


def test_memory_is_weights_and_the_caches_of_a_batch() -> None:
    words = (
        "model=llama8b",
        "task=wordmath",
        "device=cuda",
        "chain=2",
        "context=1000",
        "max_agent_tokens=100",
        "max_new_tokens=100",
        "batch_size=4",
    )
    lookup = {name: plain(model_config(name)) for name in ("llama8b", "qwen1.5b")}.__getitem__
    weights = round(PARAMETERS["llama8b"] * 2)
    tokens = 1000 + 2 * 100 + 100 + 100
    found = memory_bytes(values_of(*words), lookup)
    assert found == pytest.approx(weights + 4 * tokens * 128 * 2**10, rel=0.002)  # 128 KiB a token
    both = memory_bytes(values_of(*words, "receiver=qwen1.5b"), lookup)
    assert both is not None
    assert found is not None
    assert both - found == pytest.approx(PARAMETERS["qwen1.5b"] * 2, rel=0.002)
    timed = memory_bytes(values_of(*words, "quality=off"), lookup)
    assert timed == pytest.approx(weights + tokens * 128 * 2**10, rel=0.002), "hand-offs are timed at batch 1"
    assert memory_bytes(values_of(*words, "quality=off", "fidelity=on"), lookup) == found
    wide = memory_bytes(values_of(*words, "dtype=float32"), lookup)
    assert wide == 2 * found
    assert memory_bytes(values_of(*words, "model.path=/nowhere"), lookup) is None
    few, most = (memory_bytes(values_of(*words, f"batch_size={size}", "limit=64"), lookup) for size in (64, "auto"))
    assert few == most == pytest.approx(weights + 64 * tokens * 128 * 2**10, rel=0.002)
    assert memory_bytes(values_of(*words, "batch_size=auto"), lookup) == memory_bytes(values_of(*words, "batch_size=256"), lookup)


def test_time_is_taken_from_the_runs_most_like_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avpbench.estimate.has_gpu", lambda: False)

    def past(*words: str, per: float, device: str = "cpu-x") -> Path:
        spent = {"ready": {"seconds": 1.0, "count": 1}, "quality": {"seconds": per, "count": 1}}
        earlier = [{"spent": {"quality": {"seconds": 3 * per, "count": 1}}}, {"spent": None}]
        store = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        return a_run(store, values_of(*words), 1, spent=spent, earlier=earlier, identity={"code": "x", "device": device})

    folders = [past("chain=2", per=1.0), past("chain=4", "strategy=text", per=5.0), past("chain=4", per=7.0, device="NVIDIA H100")]
    folders.append(tmp_path / "nothing")
    history = History(folders)
    left = Wanted(10, 0, 0)
    assert history.seconds(values_of("chain=2"), left) == 1 + 10 * 2.0  # its own kind: sessions pooled, (1 + 3) / 2
    assert history.seconds(values_of("chain=4", "strategy=text"), left) == 1 + 10 * 10.0
    assert history.seconds(values_of("chain=8"), left) == 1 + 10 * 2.0 * 8 / 2  # of its strategy, by the length of the chain
    assert history.seconds(values_of("chain=2"), Wanted(10, 3, 0)) is None  # latency was never timed
    assert history.seconds(values_of("chain=2"), Wanted(None, 0, 0)) is None
    assert history.seconds(values_of("model=qwen0.5b"), left) is None
    assert history.seconds(values_of("model=qwen0.5b"), Wanted(0, 0, 0)) == 0.0
    assert history.seconds(values_of("chain=4", "device=cuda"), left) == 1 + 10 * 14.0
    assert Past.read(tmp_path / "nothing") is None


def test_what_is_read_of_a_class_is_what_the_class_has() -> None:
    from avpbench.build import build
    from avpbench.config import groups, strategy_config
    from avpbench.engine.capture import DEMAND

    for name in groups()["strategy"]:
        config = strategy_config(name)
        source, strategy = class_source(config._target_), build(config)
        assert source is not None
        assert source.constants["thinks"] == strategy.thinks
    oracle = compose(["strategy=adaptive", "strategy/controller=oracle"]).strategy
    source = class_source(oracle.controller._target_)
    assert source is not None
    assert "DEMAND" in source.names
    assert DEMAND in build(oracle).needs
    with pytest.raises(ValueError, match="names no class"):
        class_source("avpbench.strategies.gone.Gone")
    with pytest.raises(ValueError, match=r"names no class of raw\.py"):
        class_source("avpbench.strategies.raw.Row")
    assert class_source("somebody.else.Strategy") is None


def test_another_packages_strategy_is_not_judged() -> None:
    values = values_of("think_steps=3")
    with pytest.raises(ConfigError, match="think"):
        check(values | {"strategy": {"_target_": "avpbench.strategies.text.Text"}}, lambda name: {})
    assert check(values | {"strategy": {"_target_": "somebody.else.Strategy"}}, lambda name: {}) is None  # type: ignore[func-returns-value]


def test_a_meta_of_another_version_is_named_and_not_estimated_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "adhoc" / "old"
    folder.mkdir(parents=True)
    spent = {"ready": {"seconds": 1.0, "count": 1}}
    meta = {"cell": "x", "identity": {"code": "a", "device": "cpu-x"}, "spent": spent, "earlier": [], "config": {"chain": 1}}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert Past.read(folder) is None
    assert main(["plan", "-m", f"results={tmp_path}"]) == 0
    assert main(["status", "adhoc", f"results={tmp_path}", "--once"]) == 0
    said = capsys.readouterr().out
    assert "unreadable" in said
    assert "meta.json is not one of this version" in said
