"""What an embedded model reads in training: batches of conversations from generated stories."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from avpbench.prompts import ChatTemplate, exemplar
from avpbench.tasks.stories import Story
from avpbench.tasks.wordmath import story
from avpbench.zoo.transcripts import Mix, draw, example

IGNORE = -100  # a label that is not learned
_POOL = 384  # stories
_LONGEST = 6000  # tokens of a conversation
Labelled = tuple[list[int], list[int]]


@final
@dataclass(frozen=True, slots=True)
class Corpus:
    """Conversations without end: those of process `rank` of `world`, from the story `first` on, for one training seed.

    `learn_prompts`: learn also what agents are told. `mix`: which forms of chain, and how much context.
    """

    template: ChatTemplate
    stop: int
    seed: int
    level: str
    mix: Mix
    learn_prompts: bool
    first: int = 0
    rank: int = 0
    world: int = 1

    def pool(self, number: int) -> list[Labelled]:
        """The conversations of this process's pool of this number, the shortest first: of stories that no other pool has."""
        begin = self.first + (number * self.world + self.rank) * _POOL
        found = [pair for index in range(begin, begin + _POOL) for pair in self.conversations(index)]
        return sorted((pair for pair in found if len(pair[0]) <= _LONGEST), key=lambda pair: len(pair[0]))

    def conversations(self, index: int) -> list[Labelled]:
        """(ids, labels) of the conversations of one chain over the story of this index.

        Labels are the ids that an agent should say, its stop token among them, the solutions of solved problems, and
        with `learn_prompts` also what agents are told; else -100. A wrong plan is never learned.
        """
        rng = random.Random(f"mix/{self.seed}/{index}")
        shown = [self._story(index, place + 1).problem("") for place in range(draw(rng, self.mix.context))]
        context = "".join(exemplar(problem) for problem in shown)
        solutions = [self.template.encode(f" {problem.solution}") for problem in shown]
        return [self._labelled(talk, solutions) for talk in example(self._story(index, 0), rng, self.mix, context).conversations]

    def _story(self, index: int, place: int) -> Story:
        return story(place, "train", self.seed * 100_000_000 + index, self.level)

    def _labelled(self, talk: Sequence[tuple[str, str, bool]], solutions: Sequence[tuple[int, ...]]) -> Labelled:
        ids: list[int] = []
        labels: list[int] = []
        closing = IGNORE
        for place, (asked, said, learn) in enumerate(talk):
            asked_ids = self.template.following(asked) if place else self.template.first(asked)
            said_ids = self.template.encode(said)
            ids += [*asked_ids, *said_ids]
            # a later turn opens with the token that closed the one before
            labels += asked_ids if self.learn_prompts else [closing, *_only(asked_ids, solutions)[1:]]
            labels += said_ids if learn else [IGNORE] * len(said_ids)
            closing = self.stop if learn else IGNORE
        return [*ids, self.stop], [*labels, self.stop]


def _only(ids: Sequence[int], parts: Sequence[tuple[int, ...]]) -> list[int]:
    """The ids of these parts where they stand, in this order; else -100."""
    labels, at = [IGNORE] * len(ids), 0
    for part in parts:
        found = next((k for k in range(at, len(ids) - len(part) + 1) if tuple(ids[k : k + len(part)]) == part), None)
        if found is None:  # what is not shown in this turn
            break
        at = found + len(part)
        labels[found:at] = part
    return labels


@final
class Feed:
    """Batches of a corpus, and the place in it: a feed made at another's place goes on as that would.

    A batch is right-padded, of conversations of like length, at most `batch_tokens` tokens with the padding. `fewest`
    turns this feed's number of batches in a pool into the smallest of all processes: then the k-th batches of all
    processes are of like length, and none waits for another.
    """

    def __init__(
        self, corpus: Corpus, batch_tokens: int, pool: int = 0, place: int = 0, fewest: Callable[[int], int] = lambda n: n
    ) -> None:
        self._corpus, self._batch_tokens, self.pool, self.place, self._fewest = corpus, batch_tokens, pool, place, fewest
        self._groups = self._grouped()

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids_BT, labels_BT) of the next batch."""
        if self.place == len(self._groups):
            self.pool, self.place = self.pool + 1, 0
            self._groups = self._grouped()
        group = self._groups[self.place]
        self.place += 1
        width = max(len(ids) for ids, _ in group)
        return (
            torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in group]),
            torch.tensor([labels + [IGNORE] * (width - len(labels)) for _, labels in group]),
        )

    def _grouped(self) -> list[list[Labelled]]:
        groups: list[list[Labelled]] = [[]]
        for pair in self._corpus.pool(self.pool):
            if groups[-1] and (len(groups[-1]) + 1) * len(pair[0]) > self._batch_tokens:
                groups.append([])
            groups[-1].append(pair)
        groups = groups[::-1][: self._fewest(len(groups))]  # the longest at the same place in every process
        random.Random(f"order/{self._corpus.seed}/{self.pool}").shuffle(groups)
        return groups
