"""What each agent is told. The same words for every strategy, but for the one slot in which context arrives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import final

from avpbench import digest
from avpbench.core import Prompt, Turn
from avpbench.tasks.task import Problem

ROLES = {
    "planner": "You are the planner. Write a short plan: one equation a line, nothing solved.",
    "critic": "You are the critic. Say that the plan is right, or which line should be what.",
    "refiner": "You are the refiner. Write the whole plan again, corrected.",
    "solver": "You are the solver. Solve the problem step by step. End with #### and the number.",
}
_BRIEF = {"refiner": "You are the refiner. Write only the line of the plan that changes."}
_MORE = " Add what the new facts say."
_SLOT = "Context:\n{slot}\n\n"
_EXEMPLAR = "Question: {question}\nAnswer: {solution}\n\n"
QUESTION_MODES = ("first", "all", "split")


def roles(chain: int) -> tuple[str, ...]:
    """The roles of a chain: a planner first, a solver last, critics and refiners by turns between them."""
    if chain == 1:
        return ("solver",)
    between = tuple(("critic", "refiner")[k % 2] for k in range(chain - 2))
    return ("planner", *between, "solver")


def given(problem: Problem, mode: str, place: int, chain: int, context: str = "") -> str:
    """The part of the problem that the agent at `place` is given, and the shared context wherever the question goes.

    `first`: all of it to the first agent. `all`: all of it to each. `split`: the first agent gets the asked sentence,
    and every agent an equal run of the facts.
    """
    if mode == "split" and chain > 1:
        count = len(problem.facts)
        mine = " ".join(problem.facts[place * count // chain : (place + 1) * count // chain])
        if place == 0:
            return context + asked(problem, mine)
        return f"More facts: {mine}\n" if mine else ""
    if mode == "all" or place == 0:
        return f"{context}Question: {problem.question}\n"
    return ""


def asked(problem: Problem, facts: str = "") -> str:
    """What is asked, with the facts that go with it."""
    return (f"Facts: {facts}\n" if facts else "") + f"Question: {problem.asked}\n"


def question_alone(problem: Problem, mode: str, context: str = "") -> str:
    """What the control `question_only` hands over: under `split` the asked sentence and nobody's facts."""
    return context + (asked(problem) if mode == "split" else f"Question: {problem.question}\n")


def prompt(problem: Problem, mode: str, place: int, chain: int, context: str = "", repeat: bool = True) -> Prompt:
    """The prompt of the agent at `place` (from 0) in a chain of `chain` agents; without `repeat` nobody repeats the plan."""
    role = roles(chain)[place]
    task = ROLES[role] if repeat else _BRIEF.get(role, ROLES[role])
    part = given(problem, mode, place, chain, context)
    more = _MORE if part.startswith("More facts") and role != "solver" else ""
    return Prompt(role, f"{part}{task}{more}", question_alone(problem, mode, context))


def fill(slot: str, words: str) -> str:
    """The user's message: the context slot where there is something in it, then the prompt."""
    return (_SLOT.format(slot=slot) if slot else "") + words


def exemplar(problem: Problem) -> str:
    """A solved problem as shared context."""
    return _EXEMPLAR.format(question=problem.question, solution=problem.solution)


def as_json(turns: Sequence[Turn], whole: bool) -> str:
    """Turns as the JSON that fills a context slot: what was said, and with `whole` also what was asked."""
    rows = [{"role": turn.role, **({"asked": turn.asked} if whole else {}), "said": turn.said} for turn in turns]
    return json.dumps(rows, ensure_ascii=False)


def prompt_hash() -> str:
    """Identifies the wording of every prompt of this version."""
    return digest.of_text("\n".join((*ROLES.values(), *_BRIEF.values(), _MORE, _SLOT, _EXEMPLAR)))


@final
class ChatTemplate:
    """Turns of one conversation as token ids, from the tokenizer's own chat template.

    A first turn is the whole rendered conversation. A later turn is what the template adds to a conversation that
    ends in an assistant's message: the close of that message, the user's, and the opening of the next. So history
    is never rendered again, and there is one beginning-of-sequence token.
    """

    _SAID = "\u2042said\u2042"
    _DATE = "26 Jul 2024"  # Llama's template inserts today's otherwise

    def __init__(self, tokenizer) -> None:  # type: ignore[no-untyped-def]  # PreTrainedTokenizerBase, not imported here
        self._tokenizer = tokenizer

    def _render(self, messages: list[dict[str, str]]) -> str:
        rendered: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, date_string=self._DATE)
        return rendered

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, special tokens shown."""
        text: str = self._tokenizer.decode(list(ids))
        return text

    def first(self, words: str) -> tuple[int, ...]:
        """Ids of a conversation that begins with this message of the user's, up to where the assistant speaks."""
        return self.encode(self._render([{"role": "user", "content": words}]))

    def following(self, words: str) -> tuple[int, ...]:
        """Ids that close the assistant's last message and add the user's next one."""
        rendered = self._render(
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": self._SAID},
                {"role": "user", "content": words},
            ]
        )
        return self.encode(rendered.split(self._SAID, 1)[1])
