"""GSM8K: from the hub through `datasets`, or from a folder with train.jsonl and test.jsonl."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from avpbench import digest
from avpbench.errors import NotFound, cause
from avpbench.tasks.grading import strict
from avpbench.tasks.task import Problem, Task

REPO = "openai/gsm8k"
WAYS_ON = "Ways on: connect to the hub; task.path=DIR; task=wordmath, which needs no network"
_SENTENCE = re.compile(r"(?<=[.!?])[\"']?\s+")


@final
class Gsm8k(Task):
    """1,319 test and 7,473 training problems.

    Args:
        path: a folder with train.jsonl and test.jsonl, or None for the hub.
        revision: branch, tag or commit on the hub.
    """

    name = "gsm8k"

    def __init__(self, path: str | None, revision: str) -> None:
        if path is None:
            self._train, self._test, self._fingerprint = _from_hub(revision)
        else:
            self._train, self._test = (_from_file(Path(path) / f"{split}.jsonl") for split in ("train", "test"))
            self._fingerprint = f"gsm8k/{digest.of_json([self._train, self._test])}"

    def __len__(self) -> int:
        return len(self._test)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def problem(self, index: int) -> Problem:
        return _problem(f"gsm8k-test-{index}", self._test[index])

    def exemplar(self, index: int) -> Problem:
        return _problem(f"gsm8k-train-{index}", self._train[index])


Row = tuple[str, str]


def _problem(id: str, row: Row) -> Problem:
    question, answer = row
    sentences = _SENTENCE.split(question.strip())
    place = next((k for k in reversed(range(len(sentences))) if sentences[k].rstrip("\"'").endswith("?")), len(sentences) - 1)
    facts = tuple(s for k, s in enumerate(sentences) if k != place)
    gold = strict(answer)
    assert gold is not None, f"{id} has no #### answer"  # rows were checked when read
    return Problem(id, question, facts, sentences[place], answer, gold)


def _from_file(path: Path) -> list[Row]:
    if not path.is_file():
        raise NotFound(f"no data set: looked for {path}; task.path= must name a folder with train.jsonl and test.jsonl. {WAYS_ON}")
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise NotFound(
                f"{path}:{number}: broken line ({cause(error)}); wanted an object with the strings 'question' and 'answer', the"
                " answer ending in '#### NUMBER'"
            ) from error
    if not rows:
        raise NotFound(f"{path} holds no problems; wanted a line of JSON a problem. {WAYS_ON}")
    return rows


def _row(raw: dict[str, Any]) -> Row:
    question, answer = raw["question"], raw["answer"]
    if not isinstance(question, str) or not isinstance(answer, str):
        raise TypeError("question and answer must be strings")
    if strict(answer) is None:
        raise ValueError("answer has no '#### NUMBER'")
    return question, answer


def _from_hub(revision: str) -> tuple[Sequence[Row], Sequence[Row], str]:
    import datasets
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(REPO, repo_type="dataset", revision=revision)  # fails at once, where datasets tries for a minute
    except Exception as error:  # datasets raises many kinds, all meaning that it could not be had
        raise NotFound(
            f"no data set: looked for {REPO} at revision {revision} on the hub and in its cache ({cause(error)}). {WAYS_ON}"
        ) from error
    data = datasets.load_dataset(folder, "main")
    train, test = ([_row(raw) for raw in data[split]] for split in ("train", "test"))
    return train, test, f"{REPO}@{Path(folder).name}/{data['test']._fingerprint}"
