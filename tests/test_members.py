"""The embedded models as shipped: ordinary files, pinned weights, their recipe, a tokenizer that loses nothing."""

from __future__ import annotations

import gc
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from avpbench.config import CONF, model_config
from avpbench.engine import load as loading
from avpbench.engine.identity import weights_id
from avpbench.engine.load import ZOO, Source
from avpbench.errors import ConfigError, NotFound
from avpbench.tasks.wordmath import story
from avpbench.zoo.transcripts import Mix, example

MEMBERS = sorted(p.name for p in ZOO.iterdir() if (p / "config.json").is_file())
CPU = torch.device("cpu")


def test_every_member_has_a_config_and_all_fit_the_wheel() -> None:
    names = {member.rsplit("-", 1)[0] for member in MEMBERS}
    assert names == {p.stem for p in (CONF / "model").glob("tiny*.yaml")}
    assert sum(p.stat().st_size for member in MEMBERS for p in (ZOO / member).iterdir()) < 30e6


@pytest.mark.parametrize("member", MEMBERS)
def test_it_loads_through_the_ordinary_classes(member: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(ZOO / member)
    tokenizer = AutoTokenizer.from_pretrained(ZOO / member)
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 6e6
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.chat_template


@pytest.mark.parametrize("member", MEMBERS)
def test_its_tokenizer_loses_nothing(member: str) -> None:
    """`AutoTokenizer` rebuilds a tokenizer for the model's type; it must be the one of training."""
    auto = AutoTokenizer.from_pretrained(ZOO / member)
    saved = PreTrainedTokenizerFast.from_pretrained(ZOO / member)
    rng = random.Random(0)
    for index in range(60):
        for talk in example(story(0, "train", index), rng, Mix()).conversations:
            for text in (text for asked, said, _ in talk for text in (asked, said)):
                ids = auto(text, add_special_tokens=False)["input_ids"]
                assert ids == saved(text, add_special_tokens=False)["input_ids"]
                assert auto.decode(ids) == text


@pytest.mark.parametrize("member", MEMBERS)
def test_it_was_trained_by_the_recipe_that_is_here(member: str) -> None:
    name, seed = member.rsplit("-", 1)
    told = json.loads((ZOO / member / "training.json").read_text())
    level = {"level": "standard"} if member in ("tiny-0", "tiny-stress-0") else {}  # what `broad` was called when these were trained
    assert told["recipe"] == OmegaConf.to_container(OmegaConf.load(ZOO / "recipes" / f"{name}.yaml")) | level  # type: ignore[operator]
    assert told["seed"] == int(seed)


@pytest.mark.parametrize("member", MEMBERS)
def test_its_weights_are_those_that_were_trained(member: str) -> None:
    assert weights_id(ZOO / member) == json.loads((ZOO / member / "training.json").read_text())["weights"]


def test_who_shares_a_tokenizer() -> None:
    """What cards and studies call one tokenizer is one."""
    vocab = {member: AutoTokenizer.from_pretrained(ZOO / member).get_vocab() for member in MEMBERS}
    assert vocab["tiny-large-0"] == vocab["tiny-stress-0"] == vocab["tiny-0"]
    assert vocab["tiny-1"] == vocab["tiny-2"] != vocab["tiny-llama-0"]


def test_a_second_model_is_of_the_same_training_seed_where_it_has_one() -> None:
    first = model_config("tiny")
    first.variant = 2
    assert model_config("tiny", first).zoo == "tiny-2"
    assert model_config("tiny-large", first).zoo == "tiny-large-0"


def test_other_weights_in_a_member_s_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ZOO / "tiny-0", tmp_path / "tiny-0")
    weights = tmp_path / "tiny-0" / "model.safetensors"
    whole = weights.read_bytes()
    monkeypatch.setattr(loading, "ZOO", tmp_path)
    for place, told in (
        (len(whole) - 1000, r"not the shipped ones \(digest .*, wanted .*\); reinstall avpbench"),
        (8, "is damaged: its header cannot be read .*fetch the weights again"),
    ):
        broken = bytearray(whole)
        broken[place] ^= 1
        weights.write_bytes(broken)
        with pytest.raises((ConfigError, NotFound), match=told):
            loading.load(Source("tiny", zoo="tiny-0"), CPU, torch.float32)


def test_a_model_stays_known_when_another_load_of_it_is_gone() -> None:
    """What projects between two models in memory looks them up by who they are."""
    first = loading.load(Source("tiny", zoo="tiny-1"), CPU, torch.float32)
    second = loading.load(Source("tiny", zoo="tiny-1"), CPU, torch.float32)
    assert second is not first
    del second
    gc.collect()
    assert loading.loaded(first.spec) is first
