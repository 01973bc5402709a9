"""The embedded tokenizers: what `AutoTokenizer` loads is what was learned, and every text comes back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from avpbench.prompts import ChatTemplate
from avpbench.tasks.wordmath import story
from avpbench.zoo import tokenizers
from avpbench.zoo.transcripts import Mix, example


@pytest.mark.parametrize("kind", tokenizers.TOKENIZERS)
def test_the_tokenizer_is_the_learned_one_and_loses_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_NUM_STORIES", 200)
    learned = tokenizers.TOKENIZERS[kind](900, 0, "standard")
    learned.save_pretrained(tmp_path)
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(0)
    texts = [
        text
        for index in range(60)
        for talk in example(story(0, "train", index), rng, Mix()).conversations
        for asked, said, _ in talk
        for text in (asked, said)
    ]
    for text in [*texts, "  two  spaces\n\nand a tab\t, é, 漢, 1234567"]:
        ids = auto(text, add_special_tokens=False)["input_ids"]
        assert ids == learned(text, add_special_tokens=False)["input_ids"]
        assert auto.decode(ids) == text
    assert len(auto.encode("1234567", add_special_tokens=False)) in (7, 8)
    talk = ChatTemplate(auto)
    assert auto.eos_token_id in talk.following("And now?")
    assert auto.eos_token_id not in talk.first("Begin.")[-3:]


def test_the_two_kinds_spell_a_leading_space_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_NUM_STORIES", 200)
    spelled = {kind: make(900, 0, "standard").get_vocab() for kind, make in tokenizers.TOKENIZERS.items()}
    assert "Ġhas" in spelled["qwen2"]
    assert "▁has" in spelled["llama"]
    assert not set(spelled["qwen2"]) & {"▁has", "<s>", "[INST]"}
