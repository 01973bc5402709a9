"""One run from config to summary: what it leaves, what it hashes, what it refuses before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import folder, go

from avpbench.cell import Cell
from avpbench.config import compose, identify
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError, GateFailed, IncompatibleModels, OutOfMemory, RecordsError
from avpbench.gates import Gate
from avpbench.phases import quality
from avpbench.records import read_samples


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


def test_scripted_agents_say_real_solutions_of_one_length_whatever_the_strategy(tmp_path: Path) -> None:
    said = {}
    for strategy in ("raw", "text"):
        words = (f"strategy={strategy}", "limit=2", "batch_size=1", "script_tokens=30", "max_agent_tokens=20", "chain=3")
        summary = go(tmp_path, *words)
        samples = read_samples(folder(tmp_path, *words))
        said[strategy] = [[turn.said for turn in sample.turns] for sample in samples]
        assert {turn.finish for sample in samples for turn in sample.turns} == {"script"}
        assert [[turn.generated_tokens for turn in sample.turns] for sample in samples] == [[20, 20, 30]] * 2
        assert all(sample.end_to_end_s is not None and sample.end_to_end_s > 0 for sample in samples)
        assert summary["end_to_end_s"] == samples[1].end_to_end_s, "the first pays for kernels and allocations"
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


def test_a_machine_without_git_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    go(tmp_path, "limit=2")
    assert json.loads((folder(tmp_path) / "meta.json").read_text())["git"] == {"commit": None, "dirty": None}


def test_what_times_depend_on_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"), ("OMP_PROC_BIND", "true"), ("MY_TOKEN", "secret")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LD_PRELOAD", "/opt/some/libjemalloc.so.2:/opt/libother.so")
    go(tmp_path, "limit=1")
    meta = json.loads((folder(tmp_path) / "meta.json").read_text())
    assert {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "OMP_PROC_BIND": "true"}.items() <= meta["environment"].items()
    assert meta["environment"]["LD_PRELOAD"] == "libjemalloc.so.2 libother.so"
    assert "MY_TOKEN" not in meta["environment"]
    assert meta["threads"] == torch.get_num_threads()


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
