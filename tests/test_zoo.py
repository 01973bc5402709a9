"""The embedded model: ordinary files, its tokenizer the one it was trained with, its data in a run's own format."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from avpbench.core import Turn
from avpbench.engine.engine import Engine
from avpbench.engine.load import ZOO
from avpbench.prompts import ChatTemplate, as_json, fill, prompt
from avpbench.tasks.wordmath import story
from avpbench.zoo import corpus, train
from avpbench.zoo.transcripts import RIGHT, WRONG, Mix, example


def test_it_loads_through_the_ordinary_classes() -> None:
    model = AutoModelForCausalLM.from_pretrained(ZOO / "tiny-0")
    tokenizer = AutoTokenizer.from_pretrained(ZOO / "tiny-0")
    assert model.config.model_type == "qwen2"
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 2e6
    assert tokenizer.chat_template
    assert len(tokenizer.encode("1234567")) == 7
    assert sum(p.stat().st_size for p in (ZOO / "tiny-0").iterdir()) < 8e6


def test_the_tokenizer_is_the_trained_one_and_loses_nothing() -> None:
    auto = AutoTokenizer.from_pretrained(ZOO / "tiny-0")
    saved = PreTrainedTokenizerFast.from_pretrained(ZOO / "tiny-0")
    rng = random.Random(0)
    for index in range(100):
        for talk in example(story(0, "train", index), rng, Mix()).conversations:
            for asked, said, _ in talk:
                for text in (asked, said):
                    ids = auto(text)["input_ids"]
                    assert ids == saved(text)["input_ids"]
                    assert auto.decode(ids) == text


def test_training_text_is_what_a_run_renders() -> None:
    """A text-slot example of training is, word for word, what a chain with strategy=text would ask."""
    told = story(0, "train", 11)
    only = Mix(chain=((3, 1),), question=(("first", 1),), slot=(("text", 1),), wrong_plan=0)
    talks = example(told, random.Random(0), only).conversations
    turns = [Turn(role, "", talk[0][1]) for role, talk in zip(("planner", "critic"), talks, strict=False)]
    problem = told.problem("")
    for place, talk in enumerate(talks):
        slot = as_json(turns[:place], whole=False) if place else ""
        assert talk[0][0] == fill(slot, prompt(problem, "first", place, 3).words)


def test_a_wrong_plan_is_shown_but_not_learned() -> None:
    only = Mix(chain=((4, 1),), question=(("first", 1),), slot=(("prefix", 1),), wrong_plan=1)
    for index in range(30):
        told = story(0, "train", index)
        ((plan, critic, refined, _),) = example(told, random.Random(index), only).conversations
        right = "\n".join(told.equations(only_needed=True))
        assert plan[1] != right
        assert not plan[2]
        assert critic[1].startswith(WRONG)
        assert critic[1].removeprefix(WRONG) in right.split("\n")
        assert refined[1:] == (right, True)
    assert RIGHT not in WRONG


@pytest.mark.parametrize("learn_prompts", [True, False])
def test_what_is_learned(tiny: Engine, learn_prompts: bool) -> None:
    """What agents say, with its stop token; what they are told where the cycle asks for it; a wrong plan never."""
    stop = tiny.tokenizer.eos_token_id
    source = corpus.conversations(ChatTemplate(tiny.tokenizer), stop, 0, "standard", count(), learn_prompts)
    hidden = 0
    for _ in range(100):
        ids, labels = next(source)
        assert len(ids) == len(labels)
        assert all(label in (id, -100) for id, label in zip(ids, labels, strict=True))
        assert labels[-1] == stop
        learned = tiny.tokenizer.decode([i for i in labels if i != -100])
        assert ("You are the" in learned) == learn_prompts
        ignored = tiny.tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label == -100])
        if learn_prompts:
            hidden += bool(ignored)
            assert all(line.startswith(("Let ", "Find ")) for line in ignored.splitlines() if line)
        else:
            assert "#### " not in ignored.replace("End with ####", "")
    assert hidden > 3 or not learn_prompts


@pytest.mark.slow
def test_training_lowers_the_loss_and_is_seeded(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    recipe = OmegaConf.load(train.HERE / "recipes" / "tiny.yaml")
    small = OmegaConf.merge(
        recipe,
        {
            "cycles": [{"steps": 6, "learning_rate": 0.003, "learn_prompts": p} for p in (True, False)],
            "batch_tokens": 1024,
            "processes": 2,
            "config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
        },
    )
    losses = []
    for name in ("a", "b"):
        train.train(small, tmp_path / name, 3, "cpu")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        losses.append(torch.cat([p.float().flatten() for p in model.parameters()]))
    assert torch.equal(losses[0], losses[1])
