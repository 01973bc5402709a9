"""Training: its data are in a run's own format, and it is seeded, resumed, and refused where something else was begun."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import cell
from omegaconf import DictConfig, OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from avpbench.chain import run_chain
from avpbench.engine.engine import Engine
from avpbench.engine.identity import weights_id
from avpbench.errors import ConfigError
from avpbench.prompts import ChatTemplate, prompt
from avpbench.tasks.wordmath import story
from avpbench.zoo import checkpoint, member, train
from avpbench.zoo.corpus import IGNORE, Corpus, Feed
from avpbench.zoo.transcripts import RIGHT, STANDS, WRONG, Mix, example


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("question", ["first", "all", "split"])
@pytest.mark.parametrize(("slot", "strategy"), [("prefix", "raw"), ("text", "text"), ("text_full", "text_full")])
def test_training_ids_are_those_that_a_run_gives_its_last_agent(
    tiny: Engine, slot: str, strategy: str, question: str, repeat: bool
) -> None:
    """Four agents who say what training makes them say end, through a real chain, in the very ids of the training conversation."""
    template, stop, index = ChatTemplate(tiny.tokenizer), tiny.tokenizer.eos_token_id, 3

    def only(form: str) -> Mix:
        return Mix(chain=((4, 1),), question=((question, 1),), slot=((form, 1),), wrong_plan=0, brief=not repeat)

    told = story(0, "train", index, "standard")
    (talk,) = example(told, random.Random(0), only("prefix")).conversations
    script = tuple(template.encode(said) for _, said, _ in talk)
    one = cell(tiny, strategy, chain=4, question=question)
    prompts = [prompt(told.problem(""), question, place, 4, repeat=repeat) for place in range(4)]
    (done,) = run_chain(one.agents, [prompts], one.jobs([0], [script]))
    trained_on, _ = Corpus(template, stop, 0, "standard", only(slot), False).conversations(index)[-1]
    assert [*done.state.token_ids, stop] == trained_on


def test_a_wrong_plan_is_shown_but_not_learned() -> None:
    only = Mix(chain=((4, 1),), question=(("first", 1),), slot=(("prefix", 1),), wrong_plan=1, brief=0)
    for index in range(30):
        told = story(0, "train", index)
        ((plan, critic, refined, _),) = example(told, random.Random(index), only).conversations
        right = "\n".join(told.plan())
        assert plan[1] != right
        assert not plan[2]
        assert critic[1].startswith(WRONG)
        assert critic[1].removeprefix(WRONG) in right.split("\n")
        assert refined[1:] == (right, True)
    assert RIGHT not in WRONG


def test_a_brief_chain_says_no_plan_twice() -> None:
    """With `repeat=false` a refiner writes the corrected line, or that the plan stands; the solver still solves it whole."""
    only = Mix(chain=((4, 1),), question=(("first", 1),), slot=(("prefix", 1),), wrong_plan=1, brief=1)
    for index in range(20):
        told = story(0, "train", index)
        ((_, critic, refined, solved),) = example(told, random.Random(index), only).conversations
        assert refined[1] == critic[1].removeprefix(WRONG)
        assert "Write only the line" in refined[0]
        assert solved[1] == told.problem("").solution
    right = Mix(chain=((4, 1),), question=(("first", 1),), slot=(("prefix", 1),), wrong_plan=0, brief=1)
    ((_, critic, refined, _),) = example(story(0, "train", 3), random.Random(0), right).conversations
    assert (critic[1], refined[1]) == (RIGHT, STANDS)


def feed_of(tiny: Engine, mix: Mix, learn_prompts: bool, **at: int) -> Feed:
    corpus = Corpus(ChatTemplate(tiny.tokenizer), tiny.tokenizer.eos_token_id, 0, "standard", mix, learn_prompts)
    return Feed(corpus, 2048, **at)


@pytest.mark.parametrize("learn_prompts", [True, False])
def test_what_is_learned(tiny: Engine, learn_prompts: bool) -> None:
    """What agents say, with its stop token; what they are told where the cycle asks for it; a wrong plan never."""
    stop = tiny.tokenizer.eos_token_id
    corpus = Corpus(ChatTemplate(tiny.tokenizer), stop, 0, "standard", Mix(), learn_prompts)
    hidden = 0
    for ids, labels in (pair for index in range(40) for pair in corpus.conversations(index)):
        assert len(ids) == len(labels)
        assert all(label in (id, IGNORE) for id, label in zip(ids, labels, strict=True))
        assert labels[-1] == stop
        learned = tiny.tokenizer.decode([i for i in labels if i != IGNORE])
        assert ("You are the" in learned) == learn_prompts
        ignored = tiny.tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label == IGNORE])
        if learn_prompts:
            hidden += bool(ignored)
            assert all(line.startswith(("Let ", "Find ")) for line in ignored.splitlines() if line)
        else:
            assert "#### " not in ignored.replace("End with ####", "")
    assert hidden > 3 or not learn_prompts


def test_solved_problems_are_learned_where_they_stand(tiny: Engine) -> None:
    corpus = Corpus(ChatTemplate(tiny.tokenizer), 1, 0, "standard", Mix(context=((2, 1),)), False)
    learned_first = 0
    for index in range(10):
        ids, labels = corpus.conversations(index)[0]
        text = tiny.tokenizer.decode(ids)
        assert text.count("Answer:") >= 2 or "Question:" not in text
        before = labels[: next(k for k in range(len(ids)) if tiny.tokenizer.decode(ids[: k + 1]).endswith("You are the"))]
        learned_first += tiny.tokenizer.decode([i for i in before if i != IGNORE]).count("####") == 2
    assert learned_first >= 8


def test_a_feed_goes_on_from_its_place(tiny: Engine) -> None:
    """Batches from any place are those of a feed that came there; no conversation comes twice; widths hold."""
    one = feed_of(tiny, Mix(), False)
    batches = [one.next() for _ in range(30)]
    again = feed_of(tiny, Mix(), False, pool=0, place=20)
    for wanted, got in zip(batches[20:], (again.next() for _ in range(10)), strict=True):
        assert torch.equal(wanted[0], got[0])
        assert torch.equal(wanted[1], got[1])
    rows = [tuple(row.tolist()) for ids, _ in batches for row in ids]
    assert len(set(rows)) == len(rows)
    assert all(ids.numel() <= 2048 or len(ids) == 1 for ids, _ in batches)


SMALL = {
    "cycles": [{"steps": 4, "learning_rate": 0.003, "learn_prompts": p, "context": [[0, 1]]} for p in (True, False)],
    "batch_tokens": 1024,
    "processes": 2,
    "checkpoint_steps": 2,
    "config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
}


def recipe(**changes: object) -> DictConfig:
    whole = OmegaConf.merge(OmegaConf.load(train.HERE / "recipes" / "tiny.yaml"), SMALL, changes)
    assert isinstance(whole, DictConfig)
    return whole


def weights(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return torch.cat([p.float().flatten() for p in model.parameters()])


def running(group: int) -> bool:
    """Whether a process of the group is left that still works."""
    shown = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(int(line.split()[0]) == group and not line.split()[1].startswith("Z") for line in shown.splitlines())


@pytest.mark.slow
def test_training_is_seeded_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Two runs are the same bits, and so is one that was killed after a checkpoint; finished, it says so."""
    for name in ("a", "b"):
        train.train(recipe(), tmp_path / name, 3, "cpu")
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    code = (
        "import sys; from pathlib import Path; from omegaconf import OmegaConf; from avpbench.zoo import train\n"
        "if __name__ == '__main__': train.train(OmegaConf.load(sys.argv[1]), Path(sys.argv[2]), 3, 'cpu')"
    )
    script, config, out = tmp_path / "go.py", tmp_path / "recipe.yaml", tmp_path / "c"
    script.write_text(code)
    OmegaConf.save(recipe(), config)
    child = subprocess.Popen([sys.executable, str(script), str(config), str(out)], start_new_session=True)
    while not (out / train.CHECKPOINT).exists():
        time.sleep(0.05)
        assert child.poll() is None
    child.kill()
    child.wait()
    end = time.monotonic() + 30
    while time.monotonic() < end and running(child.pid):
        time.sleep(0.05)
    assert not running(child.pid)  # its workers end with it, or two trainings would write one folder
    assert not (out / "model.safetensors").exists()
    train.train(recipe(), out, 3, "cpu")
    assert torch.equal(weights(tmp_path / "a"), weights(out))
    log = json.loads((out / train.LOG).read_text())
    assert log["weights"] == weights_id(out)
    assert [row["step"] for row in log["steps"]] == [4, 4]
    assert (out / train.CURVE).stat().st_size > 1000
    assert not (out / train.CHECKPOINT).exists()


def test_another_recipe_or_seed_is_refused(tmp_path: Path) -> None:
    (tmp_path / train.LOG).write_text(json.dumps(checkpoint.about(recipe(), 3) | {"steps": [], "weights": None}))
    for changed, seed in ((recipe(weight_decay=0.2), 3), (recipe(), 4)):
        with pytest.raises(ConfigError, match="holds a training of another recipe or seed"):
            train.train(changed, tmp_path, seed, "cpu")


def test_as_many_processes_as_before(tmp_path: Path) -> None:
    (tmp_path / train.LOG).write_text(json.dumps(checkpoint.about(recipe(), 3) | {"steps": [], "weights": None}))
    checkpoint.write(tmp_path / train.CHECKPOINT, checkpoint.State(feeds=[(0, 0)] * 3), checkpoint.about(recipe(), 3))
    with pytest.raises(ConfigError, match="begun with processes=3, got 2"):
        train.train(recipe(), tmp_path, 3, "cpu")


def test_a_checkpoint_of_another_training_or_of_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / train.LOG).write_text(json.dumps(checkpoint.about(recipe(), 3) | {"steps": [], "weights": None}))
    state = checkpoint.State(feeds=[(0, 0)] * 2)
    for whose in (checkpoint.about(recipe(weight_decay=0.2), 3), checkpoint.about(recipe(), 4)):
        checkpoint.write(tmp_path / train.CHECKPOINT, state, whose)
        with pytest.raises(ConfigError, match=r"checkpoint\.pt is of another recipe or seed"):
            train.train(recipe(), tmp_path, 3, "cpu")
    whole = (tmp_path / train.CHECKPOINT).read_bytes()
    for torn in (whole[: len(whole) // 2], b"", b"text"):
        (tmp_path / train.CHECKPOINT).write_bytes(torn)
        with pytest.raises(ConfigError, match=r"checkpoint\.pt cannot be read .*remove it"):
            train.train(recipe(), tmp_path, 3, "cpu")


def test_a_training_writes_over_no_shipped_member(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[object, ...]] = []
    monkeypatch.setattr(train, "train", lambda *given: begun.append(given))
    assert train.main(["model=tiny", "seed=1"]) == 0
    assert begun[0][1:3] == (Path("results/zoo/tiny-1"), 1)


def test_a_tokenizer_of_another_member(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """tiny-large begins from random weights with tiny's tokenizer, of the same training seed."""
    large = OmegaConf.load(train.HERE / "recipes" / "tiny-large.yaml")
    assert isinstance(large, DictConfig)
    got, wanted = member.tokenizer_of(large, 1), AutoTokenizer.from_pretrained(train.HERE / "tiny-1")
    assert got.get_vocab() == wanted.get_vocab()
    assert got.chat_template == wanted.chat_template
    monkeypatch.setattr(member, "HERE", tmp_path)
    with pytest.raises(ConfigError, match=r"train model=tiny seed=1 out=.* first"):
        member.tokenizer_of(large, 1)


@pytest.mark.parametrize(("word", "told"), [
    ("model=tinny", "model=tinny has no recipe; known: .*tiny"), ("stepps=3", "stepps"), ("seed=x", "seed must be a whole number"),
    ("device=gpu", "device must be auto, cpu, cuda"),
])  # fmt: skip
def test_what_is_unknown_is_one_message(word: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([word]) == 1
    said = capsys.readouterr().err
    assert re.search(told, said.splitlines()[0])
    assert "Traceback" not in said


def test_a_torn_log_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / train.LOG).write_text('{"recipe": ')
    assert train.main(["model=tiny", f"out={tmp_path}"]) == 1
    assert "training.json is not readable as JSON" in capsys.readouterr().err
