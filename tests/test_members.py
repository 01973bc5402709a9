"""The embedded models as shipped: ordinary files, pinned weights, their recipe, a tokenizer that loses nothing."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from avpbench.config import CONF
from avpbench.engine import load as loading
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
    assert told["recipe"] == OmegaConf.to_container(OmegaConf.load(ZOO / "recipes" / f"{name}.yaml"))
    assert told["seed"] == int(seed)


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
