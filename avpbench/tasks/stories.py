"""How a wordmath story is told: facts that follow from one another and all count, then what is asked, then distractors.

Every name and object follows a space wherever it stands, in story, plan, solution and JSON, so that it is the same
token there: a small model learns to copy one token long before it learns that four spellings are one word.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from avpbench.tasks.operations import ASKS, BASE, RELATIONS, REMARKS, UPDATES, WORDINGS, Op
from avpbench.tasks.task import Problem

MAX_VALUE = 500
_REMARKS = 0.75  # of the distractors; the others count another object, which asks for comparing objects
_RESULT = {  # how a computed quantity is worded in the solution, by kind
    "relation": "So {who} has {calc} {o}.",
    "update": "Now {who} has {calc} {o}.",
    "ask": "The answer is {calc}.",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence and the quantity it defines: `who` = `calc`, e.g. Sue = Tom * 2. A remark defines none (`calc` is empty)."""

    text: str
    who: str
    calc: str  # over names and numbers
    line: str | None  # the solution's line; None where nothing is computed
    uses: tuple[int, ...]  # the facts that it needs
    value: int
    key: tuple[object, ...]

    @property
    def equation(self) -> str:
        return f"Let {self.who} = {self.calc}"


@dataclass(frozen=True, slots=True)
class Story:
    """Facts about `obj` in the order told, the asked one in `ask`; the answer rests on the facts in `needed`."""

    obj: str
    facts: tuple[Fact, ...]
    ask: Fact
    needed: tuple[int, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Who and which numbers the answer rests on: neither the wording nor the distractors count."""
        return (*(self.facts[i].key for i in self.needed), self.ask.key)

    @property
    def num_steps(self) -> int:
        return sum(self.facts[i].line is not None for i in self.needed) + (self.ask.line is not None)

    def plan(self) -> list[str]:
        """An equation for each fact that the answer rests on, then what to find."""
        return [*(self.facts[i].equation for i in self.needed), self.find]

    def told(self, start: int, stop: int) -> list[str]:
        """The equations of these facts, whether they count or not; a remark has none."""
        return [fact.equation for fact in self.facts[start:stop] if fact.calc]

    @property
    def find(self) -> str:
        """What to find, as the last line of a plan."""
        return f"Find {self.ask.calc} in {self.obj}"

    def problem(self, id: str) -> Problem:
        sentences = tuple(fact.text for fact in self.facts)
        lines = [fact.line for fact in (*(self.facts[i] for i in self.needed), self.ask) if fact.line]
        gold = str(self.ask.value)
        return Problem(
            id=id,
            question=" ".join((*sentences, self.ask.text)),
            facts=sentences,
            asked=self.ask.text,
            solution="\n".join((*lines, f"#### {gold}")),
            gold=gold,
        )


@dataclass(slots=True)
class _Teller:
    rng: random.Random
    obj: str
    wording: str
    facts: list[Fact]
    holder: dict[str, int]  # who -> the fact that last defined the quantity

    def fact(self, op: Op, who: str, people: Sequence[str], kind: str) -> Fact | None:
        """The operation told about these people, or None where its value is not a sensible whole number."""
        numbers = [self.rng.randint(*bounds) for bounds in op.numbers]
        values = [self.facts[self.holder[name]].value for name in people]
        fields = dict(zip("nm", map(str, numbers), strict=False))
        calc = op.calc.format(**fields, **dict(zip("xy", people, strict=False)))
        shown = op.calc.format(**fields, **dict(zip("xy", map(str, values), strict=False)))
        value = _evaluate(shown)
        if value is None:
            return None
        cast = dict(zip("ABC", (*people, who), strict=False)) if op.people else {"A": who, "B": who}
        template = self.rng.choice(op.templates[WORDINGS[self.wording]])
        computed = f"{shown} = <<{shown.replace(' ', '')}={value}>>{value}"
        line = _RESULT[kind].format(who=who, calc=computed, o=self.obj) if " " in shown else None
        return Fact(
            text=template.format(**cast, **fields, o=self.obj),
            who=who,
            calc=calc,
            line=line,
            uses=tuple(self.holder[name] for name in people),
            value=value,
            key=(who, *numbers),
        )

    def add(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.holder[fact.who] = len(self.facts) - 1


def _evaluate(shown: str) -> int | None:
    parts = shown.split()
    if len(parts) == 1:
        return int(parts[0])
    left, op, right = int(parts[0]), parts[1], int(parts[2])
    if op == "/" and left % right:
        return None
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left // right if right else 0}[op]
    return value if 0 < value <= MAX_VALUE else None


def tell(
    rng: random.Random, num_steps: int, num_distractors: int, names: Sequence[str], objects: Sequence[str], wording: str
) -> Story | None:
    """A story whose answer rests on `num_steps` computed steps, or None where this draw did not give one."""
    obj, other = rng.sample(objects, 2)
    free = rng.sample(names, len(names))
    teller = _Teller(rng, obj, wording, [], {})
    base = teller.fact(BASE, free.pop(), (), "relation")
    assert base is not None
    teller.add(base)
    for _ in range(40):
        story = _asked(teller, num_steps)
        if story is not None:
            return _distracted(story, teller, other, num_distractors)
        if len(teller.facts) > num_steps + 2 or not _continued(teller, free):
            return None
    return None


def _continued(teller: _Teller, free: list[str]) -> bool:
    """Tells one more fact, mostly about whoever came last."""
    rng = teller.rng
    people = list(teller.holder)
    for _ in range(20):
        update = rng.random() < 0.3 or not free
        op = rng.choice(UPDATES if update else RELATIONS if rng.random() < 0.9 else (BASE,))
        if op.people > len(people):
            continue
        recent = people[-1] if rng.random() < 0.8 else rng.choice(people)
        used = [recent, *rng.sample([p for p in people if p != recent], op.people - 1)] if op.people else []
        fact = teller.fact(op, recent, [recent], "update") if update else teller.fact(op, free[-1], used, "relation")
        if fact is not None:
            if not update:
                free.pop()
            teller.add(fact)
            return True
    return False


def _asked(teller: _Teller, num_steps: int) -> Story | None:
    rng = teller.rng
    people = list(teller.holder)
    op = rng.choice(ASKS)
    if op.people > len(people):
        return None
    last = teller.facts[-1].who
    used = [last, *rng.sample([p for p in people if p != last], op.people - 1)]
    rng.shuffle(used)
    ask = teller.fact(op, "answer", used, "ask")
    if ask is None:
        return None
    needed, waiting = set[int](), list(ask.uses)
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting.extend(teller.facts[index].uses)
    facts = tuple(teller.facts[i] for i in sorted(needed))
    story = Story(teller.obj, facts, ask, tuple(range(len(facts))))
    return story if story.num_steps == num_steps else None


def _remark(teller: _Teller, who: str) -> Fact:
    template = teller.rng.choice(teller.rng.choice(REMARKS)[WORDINGS[teller.wording]])
    return Fact(template.format(A=who, n=teller.rng.randint(2, 60)), who, "", None, (), 0, ())


def _aside(teller: _Teller, who: str, other: str) -> Fact:
    fact = _Teller(teller.rng, other, teller.wording, [], {}).fact(BASE, who, (), "relation")
    assert fact is not None
    return replace(fact, who=f"{who} {other}")


def _distracted(story: Story, teller: _Teller, other: str, count: int) -> Story:
    """The story with remarks and facts about another object put in; no equation of the story refers to them."""
    facts, needed = list(story.facts), list(story.needed)
    for who in teller.rng.sample(list(teller.holder), min(count, len(teller.holder))):
        place = teller.rng.randint(0, len(facts))
        facts.insert(place, _remark(teller, who) if teller.rng.random() < _REMARKS else _aside(teller, who, other))
        needed = [i + (i >= place) for i in needed]
    return replace(story, facts=tuple(facts), needed=tuple(needed))
