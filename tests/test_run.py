"""One run from config to summary: resumes exactly, refuses what changed, keeps failures, stops kindly."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from avpbench import run
from avpbench.cell import Cell
from avpbench.config import compose, identify
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError, GateFailed, IncompatibleModels, NotFound, OutOfMemory, RecordsError
from avpbench.gates import Gate
from avpbench.phases import quality
from avpbench.records import read_samples

FAST = ("tracker=console", "latency=off", "chain=2", "max_agent_tokens=12", "max_new_tokens=16", "batch_size=4")


def go(results: Path, *words: str) -> dict[str, Any]:
    return run(*FAST, f"results={results}", *words).row()


def folder(results: Path, *words: str) -> Path:
    identity = identify(compose([*FAST, f"results={results}", *words]))
    return results / identity.study / identity.folder


def content(path: Path) -> list[dict[str, Any]]:
    """Samples without what may differ between runs: process numbers and seconds."""
    rows = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        del row["end_to_end_s"]
        for hop in row["hops"]:
            del hop["sender_pid"], hop["receiver_pid"], hop["stages_s"]
    return rows


def test_a_run_leaves_what_the_design_names(tmp_path: Path) -> None:
    summary = go(tmp_path, "strategy=raw", "limit=6", "latency=on", "latency.repeats=2", "fidelity=on")
    path = folder(tmp_path, "strategy=raw", "latency.repeats=2")
    assert {p.name for p in path.iterdir()} == {
        "config.yaml", "meta.json", "samples.jsonl", "latency.jsonl", "fidelity.jsonl", "summary.json",
    }  # fmt: skip
    assert json.loads((path / "summary.json").read_text()) == summary
    wanted = [
        "strategy",
        "controller",
        "codec",
        "budget_bits",
        "num_samples",
        "num_errors",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "prefilled_tokens",
        "generated_tokens",
        "latent_steps",
        "wire_bytes",
        "mean_bits",
        "kl",
        "ttft_host_s",
        "reference_ttft_host_s",
        "ttft_host_speedup",
        "handoff_s",
        "peak_cache_bytes",
        "peak_device_bytes",
    ]
    assert set(wanted) <= set(summary)
    assert summary["num_samples"] == 6
    assert summary["kl"] == pytest.approx(0, abs=1e-6)
    assert summary["ttft_host_s"] > 0
    meta = json.loads((path / "meta.json").read_text())
    assert meta["cell"] == summary["cell"]
    assert {"weights", "tokenizers", "data", "dtype", "device", "libraries", "code", "prompts"} == set(meta["identity"])
    assert all(gate["passed"] for gate in meta["gates"])
    assert meta["config"]["chain"] == 2
    assert meta["versions"]["torch"] == torch.__version__
    sample = json.loads((path / "samples.jsonl").read_text().splitlines()[0])
    assert set(sample) >= {"sample_id", "gold", "prediction", "correct", "status", "completion", "turns", "hops"}
    assert set(sample["turns"][0]) >= {"role", "model", "cached_tokens", "prefilled_tokens", "generated_tokens", "latent_steps"}
    assert set(sample["hops"][0]) >= {"strategy", "decision", "sender_pid", "receiver_pid", "wire_bytes", "cache_bytes", "stages_s"}


def test_a_larger_limit_extends_and_nothing_is_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tmp_path, "limit=6")
    assert "resuming" not in capsys.readouterr().out
    go(tmp_path, "limit=6")
    assert "resuming: 6 of 6 samples and 0 timed blocks are here" in capsys.readouterr().out
    assert go(tmp_path, "limit=11")["num_samples"] == 11
    assert "resuming: 6 of 11 samples" in capsys.readouterr().out
    assert go(tmp_path, "limit=3")["num_samples"] == 3
    assert "resuming: 3 of 3 samples" in capsys.readouterr().out
    go(tmp_path / "other", "limit=11")
    ours, other = (content(folder(path)) for path in (tmp_path, tmp_path / "other"))
    assert [row.pop("batch_size") for row in ours] == [4] * 4 + [2] * 2 + [4] * 2 + [3] * 3
    assert [row.pop("batch_size") for row in other] == [4] * 8 + [3] * 3
    assert ours == other


def test_scripted_agents_say_real_solutions_of_one_length_whatever_the_strategy(tmp_path: Path) -> None:
    said = {}
    for strategy in ("raw", "text"):
        words = (f"strategy={strategy}", "limit=2", "batch_size=1", "script_tokens=30", "chain=3")
        summary = go(tmp_path, *words)
        samples = read_samples(folder(tmp_path, *words))
        said[strategy] = [[turn.said for turn in sample.turns] for sample in samples]
        assert {turn.finish for sample in samples for turn in sample.turns} == {"script"}
        assert {turn.generated_tokens for sample in samples for turn in sample.turns} == {30}
        assert all(sample.end_to_end_s is not None and sample.end_to_end_s > 0 for sample in samples)
        assert summary["end_to_end_s"] == pytest.approx(sum(s.end_to_end_s or 0 for s in samples) / 2)
    assert said["raw"] == said["text"]
    assert len({words for sample in said["raw"] for words in sample}) == 6
    assert any("=" in words for sample in said["raw"] for words in sample)
    batched = ("limit=2", "batch_size=2", "script_tokens=30")
    assert go(tmp_path, *batched)["end_to_end_s"] is None
    with pytest.raises(ConfigError, match="script_tokens must be"):
        go(tmp_path, "script_tokens=0")


def test_a_chain_of_one_is_one_cell(tmp_path: Path) -> None:
    summaries = [go(tmp_path, "chain=1", "limit=4", f"strategy={s}", *more) for s, more in (("raw", ()), ("text", ("donor=other",)))]
    assert summaries[0]["cell"] == summaries[1]["cell"]
    assert summaries[0]["strategy"] == "single"
    assert summaries[0]["wire_bytes"] is None


def test_a_budget_is_one_cell_however_it_is_spelled() -> None:
    hashes = {word: identify(compose(["strategy=adaptive", f"strategy.budget_bits={word}"])).hash for word in ("4", "4.0", "4.5")}
    assert hashes["4"] == hashes["4.0"] != hashes["4.5"]


def test_what_cannot_change_a_result_is_not_hashed(tmp_path: Path) -> None:
    base = identify(compose([])).hash
    for word in (
        "limit=3",
        "tracker=console",
        "results=elsewhere",
        "resume=never",
        "gates=full",
        "quality=off",
        "latency=off",
        "fidelity=on",
        "latency.repeats=3",
        "isolate=process",
        "wait_s=60",
        "max_failures=2",
    ):
        assert identify(compose([word])).hash == base, word
    assert identify(compose(["chain=1", "question=all", "roles.planner=tiny"])).hash == identify(compose(["chain=1"])).hash
    assert identify(compose(["model.path=/a"])).hash == base
    for word in (
        "chain=3",
        "seed=1",
        "strategy=text",
        "task.level=easy",
        "latency.new_tokens=3",
        "dtype=bfloat16",
        "batch_size=8",
        "donor=other",
    ):
        assert identify(compose([word])).hash != base, word


@pytest.mark.parametrize("key", ["weights", "data", "dtype", "device", "code", "libraries"])
def test_resume_refuses_and_names_what_changed(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path, "limit=4")
    path = folder(tmp_path) / "meta.json"
    meta = json.loads(path.read_text())
    meta["identity"][key] = "something else"
    path.write_text(json.dumps(meta))
    with monkeypatch.context() as patched:
        patched.setattr("avpbench.runner.check", pytest.fail)  # it is refused before the gates take their time
        with pytest.raises(RecordsError, match=f"differs in {key}"):
            go(tmp_path, "limit=5")
    assert len(read_samples(path.parent)) == 4
    assert go(tmp_path, "limit=5", "resume=anyway")["num_samples"] == 5
    assert key in json.loads(path.read_text())["resumed_anyway"][0]["changed"][0]
    assert go(tmp_path, "limit=2", "resume=never")["num_samples"] == 2
    assert len(list(path.parent.glob("before-*/samples.jsonl"))) == 1


def test_earlier_sessions_stay_on_record(tmp_path: Path) -> None:
    go(tmp_path, "limit=2")
    path = folder(tmp_path) / "meta.json"
    first = json.loads(path.read_text())
    go(tmp_path, "limit=4", "gates=off")
    go(tmp_path, "limit=5", "gates=off")
    meta = json.loads(path.read_text())
    assert [len(session["gates"]) for session in meta["earlier"]] == [6, 0]
    assert meta["earlier"][0]["began"] == first["began"]
    assert meta["earlier"][0]["versions"] == first["versions"]


def test_a_machine_without_git_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    go(tmp_path, "limit=2")
    assert json.loads((folder(tmp_path) / "meta.json").read_text())["git"] == {"commit": None, "dirty": None}


def test_a_stop_asked_for_in_the_last_block_stops_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell is whole, and yet a multirun must not start its next one."""
    run_chain = quality.run_chain

    def interrupted(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return run_chain(*args)

    monkeypatch.setattr(quality, "run_chain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "limit=4")
    assert json.loads((folder(tmp_path) / "summary.json").read_text())["num_samples"] == 4


def test_a_folder_of_another_cell_is_refused(tmp_path: Path) -> None:
    go(tmp_path, "limit=2")
    path = folder(tmp_path) / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"cell": "another"}))
    with pytest.raises(RecordsError, match="holds cell another"):
        go(tmp_path, "limit=2")


def test_an_out_of_memory_batch_is_halved_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_chain = quality.run_chain

    def small_device(agents: Any, prompts: Any, jobs: Any) -> Any:
        if len(prompts) > 2:
            raise MemoryError
        return run_chain(agents, prompts, jobs)

    monkeypatch.setattr(quality, "run_chain", small_device)
    go(tmp_path, "limit=8")
    samples = read_samples(folder(tmp_path))
    assert [s.batch_size for s in samples] == [2] * 8
    assert {s.status for s in samples} <= {"ok", "truncated"}


def test_failed_samples_stay_in_the_denominator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, bad = Cell.jobs, {1: OutOfMemory("no room"), 5: ValueError("a bug")}

    def failing(self: Cell, indices: Any, *args: Any) -> Any:
        for index in indices:
            if index in bad:
                raise bad[index]
        return jobs(self, indices, *args)

    monkeypatch.setattr(Cell, "jobs", failing)
    summary = go(tmp_path, "limit=8")
    samples = read_samples(folder(tmp_path))
    assert [s.status in ("oom", "error") for s in samples] == [k in bad for k in range(8)]
    assert (samples[1].status, samples[5].status, samples[5].error) == ("oom", "error", "ValueError: a bug")
    assert "ValueError: a bug" in (folder(tmp_path) / "log.txt").read_text()
    assert (summary["num_samples"], summary["num_errors"]) == (8, 2)
    assert summary["accuracy"] == sum(s.correct for s in samples) / 8


def test_a_failed_gate_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avpbench import runner

    monkeypatch.setattr(runner, "check", lambda *args: [Gate("same_ids", False, 1.0, 0.1, "margin")])
    with pytest.raises(GateFailed, match=r"same_ids: margin is 1, limit 0\.1"):
        go(tmp_path, "limit=2")
    assert not (folder(tmp_path) / "samples.jsonl").exists()


def test_impossible_combinations_load_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avpbench import setup

    monkeypatch.setattr(setup.KEPT, "load", lambda *args: pytest.fail("loaded"))
    for words, message in (
        (("strategy=text", "think_steps=3"), "hands over words"),
        (("chain=0",), "chain must be"),
        (("temperature=-1",), "temperature must be"),
        (("temperature=warm",), "temperature must be"),
        (("latency.repeats=0",), "latency.repeats must be"),
        (("gates=some",), "gates must be"),
        (("resume=sometimes",), "resume must be"),
    ):
        with pytest.raises(ConfigError, match=message):
            go(tmp_path, *words)


def test_model_and_data_are_both_reported(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        go(tmp_path, "task=gsm8k", f"task.path={tmp_path}/data", f"model.path={tmp_path}/model")
    assert "no data set: looked for" in str(caught.value)
    assert "no model: looked for" in str(caught.value)


def test_the_hub_is_asked_and_the_ways_on_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def offline(repo: str, **kwargs: Any) -> str:
        asked.append((repo, kwargs["revision"]))
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(NotFound) as caught:
        go(tmp_path, "model=qwen0.5b", "model.revision=abc")
    assert asked == [("openai/gsm8k", "main"), ("Qwen/Qwen2.5-0.5B-Instruct", "abc")]
    for way in ("task.path=DIR", "model.path=DIR", "model.load=dummy", "hf auth login"):
        assert way in str(caught.value)


def test_a_hub_folder_is_loaded_and_its_commit_recorded(tmp_path: Path, tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    commit = tmp_path / "snapshots" / "0123abc"
    tiny.model.save_pretrained(commit)
    tiny.tokenizer.save_pretrained(commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kwargs: str(commit))
    go(tmp_path, "model=qwen0.5b", "task=wordmath", "limit=2", "gates=off")
    found = next((tmp_path / "adhoc").glob("qwen0.5b-*/meta.json"))
    assert json.loads(found.read_text())["models"][0]["commit"] == "0123abc"


def test_two_models_in_one_chain(
    tmp_path: Path, untied: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The receiver plays every second agent; words go between models, K/V does not, and it is refused before a run."""
    import huggingface_hub

    untied.model.save_pretrained(tmp_path / "other")
    untied.tokenizer.save_pretrained(tmp_path / "other")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kwargs: str(tmp_path / "other"))
    words = ("chain=3", "limit=2", "latency=off")
    go(tmp_path, "strategy=text", "receiver=qwen0.5b", *words)
    samples = read_samples(next((tmp_path / "adhoc").glob("tiny+qwen0.5b-text-*")))
    assert [t.model for t in samples[0].turns] == ["tiny", "qwen0.5b", "tiny"]
    go(tmp_path, "strategy=text", "roles.solver=qwen0.5b", *words)
    with pytest.raises(IncompatibleModels, match=r"raw hands K/V from tiny to qwen0\.5b"):
        go(tmp_path, "strategy=raw", "receiver=qwen0.5b", *words)
    summary = go(tmp_path, "strategy=text", "receiver=qwen0.5b", "chain=3", "limit=2", "latency=on")
    assert (summary["num_errors"], summary["ttft_host_s"]) == (0, None)
    assert "latency and fidelity are left out" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="link=shared"):
        go(tmp_path, "strategy=text", "receiver=qwen0.5b", "link=shared", *words)


def test_a_timing_only_run_is_guarded_too(tmp_path: Path) -> None:
    words = ("quality=off", "latency=on", "latency.repeats=1", "limit=2")
    go(tmp_path, *words)
    path = folder(tmp_path, *words) / "meta.json"
    meta = json.loads(path.read_text())
    meta["identity"]["device"] = "another"
    path.write_text(json.dumps(meta))
    with pytest.raises(RecordsError, match="differs in device"):
        go(tmp_path, *words)
    go(tmp_path, *words, "resume=anyway")
    go(tmp_path, *words)
    assert len(json.loads(path.read_text())["resumed_anyway"]) == 1


def command(results: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "avpbench", *FAST, f"results={results}", *words]


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    words = ("limit=90", "batch_size=2", "gates=off")
    go(tmp_path / "calm", *words)
    wanted = content(folder(tmp_path / "calm", *words))
    path = folder(tmp_path / "wild", *words) / "samples.jsonl"
    rng = random.Random(0)
    kills = 0
    while kills < 3:
        before = path.stat().st_size if path.exists() else 0
        job = subprocess.Popen(command(tmp_path / "wild", *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while job.poll() is None and (not path.exists() or path.stat().st_size == before):
            time.sleep(0.02)
        time.sleep(rng.random() / 2)
        kills += job.poll() is None
        job.kill()
        job.wait()
        if job.returncode == 0:
            break
    assert kills >= 1
    subprocess.run(command(tmp_path / "wild", *words), check=True, stdout=subprocess.DEVNULL)
    assert content(path.parent) == wanted


@pytest.mark.slow
def test_ctrl_c_keeps_everything_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = ("limit=1000", "batch_size=2", "gates=off")
    path = folder(tmp_path, *words) / "samples.jsonl"
    job = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    while job.poll() is None and not path.exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    said = job.communicate()[0]
    assert job.returncode == 130
    assert "The same command goes on from there" in said
    assert 0 < len(read_samples(path.parent)) < 1000
    assert not (path.parent / "lock").exists()
