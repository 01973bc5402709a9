"""wordmath stories as chains of agents at work: what the embedded models are trained on.

In exactly the prompts and slots of a real run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, final

from avpbench.core import Turn
from avpbench.prompts import as_json, fill, prompt, roles
from avpbench.tasks.stories import Story

_T = TypeVar("_T")
RIGHT = "The plan is right."
WRONG = "This line should be: "
STANDS = "The plan stands."


@final
@dataclass(frozen=True, slots=True)
class Mix:
    """How often each form of chain occurs in training; weights, not probabilities."""

    chain: tuple[tuple[int, int], ...] = ((1, 20), (2, 15), (3, 15), (4, 25), (5, 8), (6, 8), (7, 5), (8, 4))
    question: tuple[tuple[str, int], ...] = (("first", 55), ("all", 15), ("split", 30))
    slot: tuple[tuple[str, int], ...] = (("prefix", 60), ("text", 28), ("text_full", 8), ("question_only", 4))
    wrong_plan: float = 0.35
    brief: float = 0.2  # chains in which no agent repeats the plan
    context: tuple[tuple[int, int], ...] = ((0, 1),)  # solved problems before the question


@final
@dataclass(frozen=True, slots=True)
class Example:
    """Conversations of one chain: each a list of (the user's words, the agent's words, whether to learn them)."""

    conversations: tuple[tuple[tuple[str, str, bool], ...], ...]


def example(story: Story, rng: random.Random, mix: Mix, context: str = "") -> Example:
    """One chain over a story, in a form drawn from the mix, after this shared context."""
    chain, mode, slot = draw(rng, mix.chain), draw(rng, mix.question), draw(rng, mix.slot)
    sees_question = mode == "all" or (mode == "first" and slot in ("prefix", "text_full"))
    wrong = chain > 2 and sees_question and rng.random() < mix.wrong_plan
    brief = chain > 2 and rng.random() < mix.brief
    said = _words(story, chain, mode, rng if wrong else None, brief)
    problem = story.problem("")
    prompts = [prompt(problem, mode, k, chain, context, not brief) for k in range(chain)]
    turns = [(Turn(p.role, p.words, words), p.question) for p, words in zip(prompts, said, strict=True)]
    learn = [not (wrong and k == 0) for k in range(chain)]
    if slot == "prefix":
        return Example((tuple((t.asked, t.said, ok) for (t, _), ok in zip(turns, learn, strict=True)),))
    conversations = []
    for k, (turn, question) in enumerate(turns):
        if slot == "question_only":
            if k not in (0, chain - 1) or mode == "split":
                continue
            words = question if k else ""
        else:
            words = as_json([t for t, _ in turns[:k]], whole=slot == "text_full") if k else ""
        conversations.append(((fill(words, turn.asked), turn.said, learn[k]),))
    return Example(tuple(conversations))


def draw(rng: random.Random, weights: Sequence[tuple[_T, int]]) -> _T:
    """One of the values, by their weights."""
    return rng.choices([value for value, _ in weights], [weight for _, weight in weights])[0]


def _words(story: Story, chain: int, mode: str, wrong: random.Random | None, brief: bool) -> list[str]:
    """What each agent of the chain should say; with `wrong`, the planner makes one mistake and the critic finds it.

    With `brief`, refiners write the line that changes and what their own facts say, not the plan again.
    """
    split = mode == "split" and chain > 1
    plan = story.plan()
    shown, correction = (plan, None) if wrong is None else _spoil(plan, wrong)
    said: list[str] = []
    for place, role in enumerate(roles(chain)):
        start, stop = (k * len(story.facts) // chain for k in (place, place + 1))
        own = story.told(start, stop) if split else []
        if role == "planner":
            lines = [*own, story.find] if split else shown
        elif role == "critic":
            lines = [WRONG + correction if place == 1 and correction else RIGHT, *own]
        elif role == "refiner" and brief:
            lines = [*([correction] if place == 2 and correction else []), *own] or [STANDS]
        elif role == "refiner":
            lines = [*story.told(0, stop), story.find] if split else plan
        else:
            lines = [story.problem("").solution]
        said.append("\n".join(lines))
    return said


def _spoil(plan: Sequence[str], rng: random.Random) -> tuple[list[str], str]:
    """The plan with a number or an operation changed in one line, and that line as it should be."""
    place = rng.randrange(len(plan))
    parts = plan[place].split(" ")
    choices = [k for k, part in enumerate(parts) if part.isdigit() or part in "+-*/"]
    if not choices:
        place = 0
        parts = plan[0].split(" ")
        choices = [k for k, part in enumerate(parts) if part.isdigit() or part in "+-*/"]
    k = rng.choice(choices)
    was = parts[k]
    while parts[k] == was:
        parts[k] = str(max(1, int(was) + rng.randint(-9, 9))) if was.isdigit() else rng.choice("+-*/")
    return [*plan[:place], " ".join(parts), *plan[place + 1 :]], plan[place]
