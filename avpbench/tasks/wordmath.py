"""Grade-school stories in GSM8K's format, generated: no network, known structure, disjoint train and test.

A story is a sequence of facts. Each fact defines a quantity by an equation over numbers and earlier quantities, and
the asked sentence is one more equation. So the plan, the worked solution, a wrong plan and a fair split of the facts
among agents are all known.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from avpbench.checks import one_of, whole
from avpbench.errors import ConfigError
from avpbench.tasks.operations import NAMES, OBJECTS
from avpbench.tasks.stories import Story, tell
from avpbench.tasks.task import Problem, Task


@final
@dataclass(frozen=True, slots=True)
class Level:
    """How hard a story is: computed steps (least, most), distractors at most, what of it was held out, and whose problems they must be."""

    steps: tuple[int, int] = (2, 5)
    distractors: int = 1
    unseen_names: bool = False
    wording: str = "seen"  # one of WORDINGS
    split: str | None = None


LEVELS = {
    "standard": Level(),
    "easy": Level(steps=(2, 2), distractors=0),
    "broad": Level(steps=(2, 8), distractors=2),  # what the embedded models are trained on
    "long": Level(steps=(9, 10)),
    "unseen_names": Level(unseen_names=True),
    "unseen_templates": Level(wording="unseen"),
    "controllers": Level(wording="controllers", split="train"),  # for fitting to labels: no test has these stories or these words
}
_SHARES = ("test", "dev")  # a bucket in eight each; the rest is for training


def _split(story: Story) -> str:
    """The split of a story by its `key`: no test story is a training story told with other words or other distractors."""
    bucket = zlib.crc32(repr(story.key).encode()) % 8
    return _SHARES[bucket] if bucket < len(_SHARES) else "train"


@lru_cache(maxsize=8192)
def story(seed: int, split: str, index: int, level: str = "standard") -> Story:
    """The story at `index` of a split (train, dev or test), told anew until what its answer rests on belongs to that split."""
    rules = LEVELS[level]
    names = NAMES[-8:] if rules.unseen_names else NAMES[:-8]
    objects = OBJECTS[-6:] if rules.unseen_names else OBJECTS[:-6]
    least, most = rules.steps
    num_steps = min(least + int(random.Random(f"{seed}/{split}/{level}/{index}").expovariate(0.4)), most)
    attempt = 0
    while True:
        rng = random.Random(f"{seed}/{split}/{level}/{index}/{attempt}")
        told = tell(rng, num_steps, rng.randint(0, rules.distractors), names, objects, rules.wording)
        if told is not None and _split(told) == split:
            return told
        attempt += 1


@final
class Wordmath(Task):
    """Generated stories.

    Args:
        size: number of test problems.
        level: one of LEVELS.
        seed: another seed is another data set.
        split: `test`, or `dev` for whatever is chosen before it is reported. Level `controllers` is always training stories.
        path: must be absent; the stories are generated.
    """

    name = "wordmath"

    def __init__(self, size: int, level: str, seed: int, split: str = "test", path: str | None = None) -> None:
        one_of("task.level", level, tuple(LEVELS))
        one_of("task.split", split, _SHARES)
        whole("task.size", size, 2)
        whole("task.seed", seed, 0)
        if path is not None:
            raise ConfigError(f"task.path={path}: wordmath is generated and reads no folder; use task=gsm8k")
        self._size, self._level, self._seed, self._split = size, level, seed, LEVELS[level].split or split

    def __len__(self) -> int:
        return self._size

    @property
    def fingerprint(self) -> str:
        probe = "\n".join(self.problem(index).question for index in (0, self._size // 2, self._size - 1))
        return f"wordmath/{self._split}/{self._level}/{self._seed}/{self._size}/{zlib.crc32(probe.encode()):08x}"

    def problem(self, index: int) -> Problem:
        return self._problem(self._split, index)

    def exemplar(self, index: int) -> Problem:
        return self._problem("train", index)

    def _problem(self, split: str, index: int) -> Problem:
        return story(self._seed, split, index, self._level).problem(f"wordmath-{self._level}-{split}-{index}")
