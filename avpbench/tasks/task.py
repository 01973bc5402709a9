"""What a task gives: problems with gold answers, and solved problems to show as context."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    `facts` are the sentences that state it and `asked` the one that asks; `question` is all of them. `solution` is a
    worked answer in GSM8K's format that ends in `#### gold`.
    """

    id: str
    question: str
    facts: tuple[str, ...]
    asked: str
    solution: str
    gold: str


class Task(ABC):
    """A finite, ordered set of test problems and a source of solved training problems."""

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """The number of test problems."""

    @abstractmethod
    def problem(self, index: int) -> Problem:
        """The test problem at `index`, the same on every machine."""

    @abstractmethod
    def exemplar(self, index: int) -> Problem:
        """A solved training problem; none of them is a test problem. Raises IndexError past the last."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the data: two tasks with one fingerprint hold the same problems."""

    def donors(self, seed: int) -> list[int]:
        """A derangement of the problems that is one single cycle, so that no chain of donations returns to its start.

        `donors(seed)[i]` is the problem whose parcel a receiver of problem `i` gets.
        """
        order = list(range(len(self)))
        random.Random(f"donor/{seed}").shuffle(order)
        donor = [0] * len(order)
        for place, index in enumerate(order):
            donor[index] = order[(place + 1) % len(order)]
        return donor
