"""Models from folders, the hub and the zoo: who they are, and what is said where they are not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, dummy
from runs import go

from avpbench.engine.engine import Engine
from avpbench.engine.load import Source, load, resolve_device, resolve_dtype
from avpbench.engine.room import available_bytes
from avpbench.errors import ConfigError, IncompatibleModels, NotFound, OutOfMemory


def test_sliding_windows_are_refused() -> None:
    with pytest.raises(IncompatibleModels, match="full-attention caches only"):
        dummy("mistral", sliding_window=64)


def test_dummy_weights_are_who_their_seed_says() -> None:
    assert dummy(seed=1).spec == dummy(seed=1).spec
    assert dummy(seed=1).spec != dummy(seed=2).spec


def test_a_copy_of_a_model_is_the_same_model(tiny: Engine, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path, max_shard_size="1MB")
    tiny.tokenizer.save_pretrained(tmp_path)
    copy = load(Source("renamed", path=str(tmp_path)), CPU, torch.float32)
    assert copy.spec.tokenizer_id == tiny.spec.tokenizer_id
    again = load(Source("renamed-again", path=str(tmp_path)), CPU, torch.float32)
    assert copy.spec == again.spec
    copy.model.get_input_embeddings().weight.data[5, 0] += 1
    copy.model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert load(Source("renamed", path=str(tmp_path)), CPU, torch.float32).spec != again.spec


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"looked for .*config\.json"):
        load(Source("x", path=str(tmp_path)), CPU, torch.float32)
    with pytest.raises(NotFound, match="no embedded model"):
        load(Source("x", zoo="tiny-99"), CPU, torch.float32)
    with pytest.raises(ConfigError, match="names no shape"):
        load(Source("x", load="dummy"), CPU, torch.float32)
    with pytest.raises(ConfigError, match="weights or dummy"):
        Source("x", load="magic")
    with pytest.raises(ConfigError, match="dtype must be"):
        resolve_dtype("int3", CPU)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            resolve_device("cuda")


@pytest.mark.parametrize(("dtype", "factor"), [("float32", 4), ("bfloat16", 2)])
def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(
    dtype: str, factor: int, tiny: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kib = sum(p.numel() for p in tiny.model.parameters()) * factor / 1024
    memory = tmp_path / "meminfo"
    monkeypatch.setattr("avpbench.engine.room._MEMINFO", memory)
    source = Source("tiny", zoo="tiny-0")
    memory.write_text(f"MemFree: 1 kB\nMemAvailable:   {int(kib * 0.95)} kB\n")
    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
        with pytest.raises(OutOfMemory) as caught:
            load(source, CPU, resolve_dtype(dtype, CPU))
    assert re.search(
        rf"tiny take 0\.0 GiB in {dtype}, and 0\.0 GiB of memory are available on cpu; choose a smaller model", str(caught.value)
    )
    assert ("dtype=bfloat16" in str(caught.value)) == (dtype == "float32")
    memory.write_text(f"MemAvailable: {int(kib * 1.05)} kB\n")
    assert load(source, CPU, resolve_dtype(dtype, CPU)).spec.name == "tiny"


def test_where_nobody_says_what_is_free_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (available_bytes(CPU) or 2**30) > 2**20
    monkeypatch.setattr("avpbench.engine.room._MEMINFO", tmp_path / "none")
    assert available_bytes(CPU) is None
    assert load(Source("tiny", zoo="tiny-0"), CPU, torch.float32).spec.name == "tiny"


def test_model_and_data_are_both_reported(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        go(tmp_path, "task=gsm8k", f"task.path={tmp_path}/data", "model=qwen0.5b", f"model.path={tmp_path}/model")
    assert "no data set: looked for" in str(caught.value)
    assert "no model: looked for" in str(caught.value)


def test_weights_at_a_path_do_not_pass_for_an_embedded_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path=/mine: tiny is embedded .* model=qwen1\.5b model\.path=/mine .*model\.name=NAME"):
        go(tmp_path, "model.path=/mine")
    for words in (["model=qwen1.5b", "task=wordmath"], ["model.name=mine"]):
        with pytest.raises(NotFound, match="looked for /mine/config"):
            go(tmp_path, *words, "model.path=/mine")


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
