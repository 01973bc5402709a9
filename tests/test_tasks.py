"""Problems are the same everywhere, train and test share none, and every gold follows from its story."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from avpbench.build import build
from avpbench.config import CONF, compose
from avpbench.errors import ConfigError, NotFound
from avpbench.prompts import given, question_alone
from avpbench.tasks.grading import grade
from avpbench.tasks.gsm8k import Gsm8k
from avpbench.tasks.operations import NAMES, OBJECTS
from avpbench.tasks.stories import Story
from avpbench.tasks.task import Task
from avpbench.tasks.wordmath import LEVELS, Wordmath, story


@pytest.mark.parametrize("level", LEVELS)
def test_the_plan_alone_gives_the_gold(level: str) -> None:
    for index in range(60):
        told = story(0, "test", index, level)
        assert _solve(told) == told.ask.value
        problem = told.problem("x")
        assert grade(problem.solution, problem.gold).correct
        least, most = LEVELS[level].steps
        assert least <= told.num_steps <= most


def _solve(told: Story) -> Fraction:
    """Runs the equations as written, with no help from the generator."""
    known: dict[str, Fraction] = {}
    for line in told.plan():
        who, right = re.sub(r" in \w+$", "", line).removeprefix("Let ").replace("Find ", "answer = ").split(" = ")
        parts = [known[p] if p in known else Fraction(p) if p.isdigit() else p for p in right.split(" ")]
        value = parts[0]
        if len(parts) == 3:
            left, op, other = parts
            value = {"+": left + other, "-": left - other, "*": left * other, "/": left / other}[str(op)]
        known[who] = Fraction(value)
    return known["answer"]


def test_every_calculation_in_a_solution_is_right() -> None:
    for index in range(100):
        for left, right in re.findall(r"<<([^=<>]+)=(\d+)>>", story(0, "train", index).problem("x").solution):
            assert eval(left) == int(right)  # digits and one operator, written by the generator


def test_stories_depend_on_seed_split_level_and_index_alone() -> None:
    random.seed(1)
    first = [story(3, "test", i) for i in range(20)]
    random.seed(2)
    assert first == [story(3, "test", i) for i in range(20)]
    assert first != [story(4, "test", i) for i in range(20)]


def test_no_test_or_dev_story_rests_on_what_a_training_story_does() -> None:
    """No two have the same plan, whatever the wording, the object, the distractors and the level (training's is `broad`)."""

    def plan(split: str, index: int, level: str) -> tuple[str, ...]:
        *equations, find = story(0, split, index, level).plan()
        return (*equations, find.rsplit(" in ", 1)[0])

    train = [plan("train", i, "broad") for i in range(12_000)]
    assert len(set(train)) < len(train)  # short ones do come twice, so sharing would show
    held_out = {plan(split, i, level) for split in ("test", "dev") for level in ("standard", "easy", "broad") for i in range(700)}
    assert not set(train) & held_out


def test_unseen_levels_use_what_training_never_does() -> None:
    def words(split: str, level: str) -> str:
        return " ".join(story(0, split, i, level).problem("x").question for i in range(500))

    def those(known: Sequence[str], text: str) -> set[str]:
        return {word for word in known if re.search(rf"\b{word}\b", text)}

    seen, unseen = words("train", "broad"), words("test", "unseen_names")
    assert (those(NAMES, seen), those(OBJECTS, seen)) == (set(NAMES[:-8]), set(OBJECTS[:-6]))
    containers = {"bags"}  # as in "3 bags of rings"
    assert (those(NAMES, unseen), those(OBJECTS, unseen) - containers) == (set(NAMES[-8:]), set(OBJECTS[-6:]))
    assert not any(sentence_form in seen for sentence_form in ("that belong to", "add up to", "apiece"))
    assert any(story(0, "test", i, "unseen_templates").problem("x").question.startswith("There are") for i in range(40))


def test_what_is_fitted_to_labels_has_words_that_no_test_has() -> None:
    """Sentence by sentence, with names, objects and numbers left out."""

    def forms(level: str, split: str) -> set[str]:
        words = " ".join(story(0, split, i, level).problem("x").question for i in range(400))
        known = "|".join((*NAMES, *OBJECTS, r"\d+"))
        return set(re.sub(rf"\b({known})\b", "_", words).split(". "))

    fitted = forms("controllers", "train")
    tested = set().union(*(forms(level, split) for level in LEVELS if level != "controllers" for split in ("train", "test")))
    assert len(fitted) > 20
    assert not fitted & tested
    assert all(
        Wordmath(20, "controllers", 0).problem(i).question == story(0, "train", i, "controllers").problem("x").question for i in range(20)
    )


@pytest.mark.parametrize("chain", [1, 2, 3, 4, 6])
def test_split_gives_every_fact_to_exactly_one_agent(chain: int) -> None:
    task = Wordmath(50, "standard", 0)
    for index in range(50):
        problem = task.problem(index)
        parts = [given(problem, "split", place, chain) for place in range(chain)]
        assert all(sum(fact in part for part in parts) >= 1 for fact in problem.facts)
        assert sum(part.count(".") for part in parts) == given(problem, "all", 0, 1).count(".")
        if chain > 1:
            assert problem.asked in parts[0]
            assert not any(fact in question_alone(problem, "split") for fact in problem.facts)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "task").glob("*.yaml")))
def test_the_contract_of_every_task(name: str, request: pytest.FixtureRequest) -> None:
    """Each YAML in conf/task is tested because it exists; a task that reads data is given a real copy."""
    cfg = compose([f"task={name}"]).task
    if name == "gsm8k":
        cfg.path = str(request.getfixturevalue("gsm8k_folder"))
    task: Task = build(cfg)
    again: Task = build(cfg)
    assert task.name == name
    assert task.fingerprint == again.fingerprint
    some = range(0, len(task), max(1, len(task) // 100))
    problems = [task.problem(i) for i in some]
    assert problems == [again.problem(i) for i in some]
    assert len({p.id for p in problems} | {task.exemplar(i).id for i in range(20)}) == len(problems) + 20
    for p in problems:
        assert grade(p.solution, p.gold).correct
        assert all(fact in p.question for fact in p.facts)
        assert p.asked in p.question


@pytest.mark.parametrize("seed", range(3))
def test_donors_are_one_cycle(seed: int) -> None:
    donors = Wordmath(97, "easy", 0).donors(seed)
    seen, at = [], 0
    for _ in donors:
        seen.append(at)
        at = donors[at]
    assert at == 0
    assert sorted(seen) == list(range(97))


@pytest.mark.parametrize(("changes", "message"), [({"level": "hard"}, "one of"), ({"size": 1}, ">= 2"), ({"path": "x"}, "generated")])
def test_wordmath_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Wordmath(**({"size": 10, "level": "easy", "seed": 0} | changes))  # type: ignore[arg-type]


def test_gsm8k_from_a_folder(gsm8k_folder: Path) -> None:
    task: Task = Gsm8k(str(gsm8k_folder), "main")
    assert len(task) == 1319
    problem = task.problem(0)
    assert problem.gold == "18"
    assert problem.asked.startswith("How much in dollars does she make")
    assert " ".join((*problem.facts, problem.asked)) == problem.question
    assert task.exemplar(0).id == "gsm8k-train-0"
    assert task.fingerprint == Gsm8k(str(gsm8k_folder), "main").fingerprint


@pytest.mark.parametrize(
    "line", ["{", '{"question": "x"}', '{"question": "x", "answer": "no number"}', '{"question": 1, "answer": "#### 1"}', "[]"]
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    good = '{"question": "How many?", "answer": "#### 1"}\n'
    (tmp_path / "train.jsonl").write_text(good)
    (tmp_path / "test.jsonl").write_text(good + line + "\n")
    with pytest.raises(NotFound, match=r"test\.jsonl:2: broken line"):
        Gsm8k(str(tmp_path), "main")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "How many?", "answer": "#### 1"}\n')
    (tmp_path / "test.jsonl").write_text("\n")
    with pytest.raises(NotFound, match=r"test\.jsonl holds no problems"):
        Gsm8k(str(tmp_path), "main")


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    line = '{"question": "A\u2028B has 3. How many?", "answer": "#### 3"}\n'
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(line, encoding="utf-8")
    assert len(Gsm8k(str(tmp_path), "main")) == 1
    (tmp_path / "test.jsonl").write_bytes(b'{"question": "caf\xe9 3?", "answer": "#### 3"}\n')
    with pytest.raises(NotFound, match=r"test\.jsonl:1: broken line \(UnicodeDecodeError"):
        Gsm8k(str(tmp_path), "main")


def test_gsm8k_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot laid out as the hub's repository is, read through `datasets`; its commit is part of the fingerprint."""
    import huggingface_hub
    import pandas as pd

    snapshot = tmp_path / "0123abc"
    (snapshot / "main").mkdir(parents=True)
    rows = [{"question": f"Tom has {n} pens. How many pens?", "answer": f"It is <<{n}={n}>>{n}.\n#### {n}"} for n in range(3)]
    for split in ("train", "test"):
        pd.DataFrame(rows).to_parquet(snapshot / "main" / f"{split}-00000-of-00001.parquet")
    files = "".join(f"  - split: {s}\n    path: main/{s}-*\n" for s in ("train", "test"))
    (snapshot / "README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{files}---\n")
    asked = {}

    def snapshot_download(repo: str, **kwargs: object) -> str:
        asked[repo] = kwargs
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = Gsm8k(None, "v1")
    assert asked == {"openai/gsm8k": {"repo_type": "dataset", "revision": "v1"}}
    assert (len(task), task.problem(2).gold, task.problem(2).facts) == (3, "2", ("Tom has 2 pens.",))
    assert task.fingerprint.startswith("openai/gsm8k@0123abc/")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"looked for .*train\.jsonl"):
        Gsm8k(str(tmp_path), "main")
