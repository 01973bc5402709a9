"""One cell of the grid, ready to run: agents, problems, prompts and jobs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, final

from avpbench import digest, legal
from avpbench.agents import Agent, Job, Recite, Speak, Think
from avpbench.chain import Player
from avpbench.core import ModelSpec, Prompt
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import ConfigError
from avpbench.links.link import Link
from avpbench.prompts import ChatTemplate, exemplar, prompt
from avpbench.strategies.strategy import Strategy
from avpbench.tasks.task import Task

if TYPE_CHECKING:
    from avpbench.remote.crew import Crew

_PATIENCE = 20  # exemplars that may be passed over because they do not fit


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """What a cell's chain does, whatever its strategy."""

    chain: int
    context: int
    question: str
    repeat: bool
    think_steps: int
    donor: str
    seed: int
    sampling: Sampling
    max_new_tokens: int
    max_agent_tokens: int
    batch_size: int | str  # auto: the largest that fits
    script_tokens: int | None = None  # what every agent that speaks says instead of its own words, for timing

    def __post_init__(self) -> None:
        legal.check_settings({field.name: getattr(self, field.name) for field in fields(self)})


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """Agents over a task. `context` is the shared text before the question, `context_tokens` its measured length.

    `crew` are the same agents in processes of their own, where the link places them there.
    """

    settings: Settings
    task: Task
    agents: tuple[Agent, ...]
    num_samples: int
    context: str
    context_tokens: int
    crew: Crew | None = None

    @property
    def players(self) -> Sequence[Player]:
        """Who plays the chain."""
        return self.agents if self.crew is None else self.crew.players(self.agents[0].strategy)

    @classmethod
    def build(cls, settings: Settings, task: Task, engines: Sequence[Engine], strategy: Strategy, link: Link, limit: int | None) -> Cell:
        """Of the first `limit` problems (None: all). Raises ConfigError or IncompatibleModels for what cannot run."""
        for engine in dict.fromkeys(engines):
            if settings.context > engine.window:
                raise ConfigError(f"context={settings.context} does not fit {engine.spec.name}: its window holds {engine.window}")
        text, count = shared_context(task, engines[0].template, settings.context)
        agents = tuple(Agent(engine, strategy, link) for engine in engines)
        cell = cls(settings, task, agents, limit or len(task), text, count)
        cell.check(strategy)
        cell.check_window()
        return cell

    def check_window(self) -> None:
        """Raises ConfigError where a chain that uses all it may, of the first problem's length, would not fit a window."""
        s = self.settings
        mine = s.think_steps or min(s.script_tokens or s.max_agent_tokens, s.max_agent_tokens)
        told = sum(len(a.engine.template.following(p.words)) for a, p in zip(self.agents, self.prompts(0), strict=True))
        longest = told + (s.chain - 1) * mine + (s.script_tokens or s.max_new_tokens)
        for engine in {agent.engine for agent in self.agents}:
            if longest > engine.window:
                raise ConfigError(
                    f"context={s.context} does not fit {engine.spec.name}: a chain of {s.chain} may take {longest} tokens ({told} of"
                    f" prompts and context, {s.chain - 1} x {mine} and {s.max_new_tokens} new ones), its window holds {engine.window};"
                    " lower context, chain, max_agent_tokens or max_new_tokens"
                )

    def check(self, strategy: Strategy) -> None:
        """Raises IncompatibleModels, or ConfigError from the link, where a hop of this cell cannot be made that way."""
        check_hops([agent.engine.spec for agent in self.agents], strategy, self.agents[0].link)

    def through(self, strategy: Strategy, link: Link | None = None) -> Cell:
        """The same cell handed over another way, its agents in this process."""
        return replace(self, agents=tuple(Agent(a.engine, strategy, link or a.link) for a in self.agents), crew=None)

    def prompts(self, index: int) -> tuple[Prompt, ...]:
        """One prompt an agent. With `donor=other` each hop carries another problem's parcel: the agent `k` hops before
        the last works on the problem `k` steps along the donors' cycle."""
        s = self.settings
        mine = [index]
        if s.donor == "other":
            donors = self.task.donors(s.seed)
            for _ in range(s.chain - 1):
                mine.append(donors[mine[-1]])
        else:
            mine *= s.chain
        return tuple(
            prompt(self.task.problem(i), s.question, place, s.chain, self.context, s.repeat) for place, i in enumerate(reversed(mine))
        )

    def jobs(
        self, indices: Sequence[int], scripts: Sequence[Sequence[tuple[int, ...]]] | None = None, agents: int | None = None
    ) -> tuple[Job, ...]:
        """One job for each of the first `agents` (default: all), for these problems; `scripts`: ids to recite, per problem and agent."""
        s = self.settings
        jobs: list[Job] = []
        for place in range(agents or s.chain):
            last = place == s.chain - 1
            if s.think_steps and not last:
                jobs.append(Think(s.think_steps))
                continue
            if scripts is not None:
                jobs.append(Recite(tuple(script[place] for script in scripts)))
                continue
            bound = s.max_new_tokens if last else s.max_agent_tokens
            told = [self.script(index, place) for index in indices]
            speeches = tuple(
                Speech(len(script) if script else bound, generator(f"{s.seed}/{index}/{place}"), script)
                for index, script in zip(indices, told, strict=True)
            )
            jobs.append(Speak(speeches, s.sampling))
        return tuple(jobs)

    def script(self, index: int, place: int) -> tuple[int, ...] | None:
        """What the agent at `place` says of this problem where `script_tokens` is set: the same whatever the strategy."""
        s = self.settings
        if s.script_tokens is None:
            return None
        size = s.script_tokens if place == s.chain - 1 else min(s.script_tokens, s.max_agent_tokens)
        first = digest.seed_of(f"script/{s.seed}/{index}/{place}") % len(self.task)
        return solutions(self.task, self.agents[place].engine.template, first, size)


def solutions(task: Task, template: ChatTemplate, first: int, num_tokens: int) -> tuple[int, ...]:
    """Exactly so many tokens of worked solutions, joined from this problem's on and cut."""
    ids: list[int] = []
    while len(ids) < num_tokens:
        ids += template.encode(task.problem(first % len(task)).solution + "\n")
        first += 1
    return tuple(ids[:num_tokens])


def check_hops(specs: Sequence[ModelSpec], strategy: Strategy, link: Link) -> None:
    """Raises IncompatibleModels, or ConfigError from the link, where agents of these models, in order, cannot hand over so."""
    for sender, receiver in itertools.pairwise(specs):
        strategy.check(sender, receiver)
        link.check(sender, receiver)


def check_problems(settings: Settings, task: Task, limit: int | None) -> None:
    """Raises ConfigError where the task has fewer problems than are asked for."""
    legal.check_limit(limit, len(task), task.name)
    if settings.donor == "other" and settings.chain > len(task):
        raise ConfigError(f"donor=other needs a data set of at least chain={settings.chain} problems, {task.name} has {len(task)}")


def shared_context(task: Task, template: ChatTemplate, budget: int) -> tuple[str, int]:
    """Whole solved training problems, as many as fit the budget of tokens, and what they measure together."""
    chosen: list[str] = []
    count, passed, index = 0, 0, 0
    while count < budget and passed < _PATIENCE:
        try:
            shown = exemplar(task.exemplar(index))
        except IndexError:
            break
        alone = len(template.encode(shown))
        if count + alone <= budget:
            chosen.append(shown)
            count += alone
        else:
            passed += 1
        index += 1
    while chosen and len(template.encode("".join(chosen))) > budget:  # tokens may fall otherwise where two problems meet
        chosen.pop()
    text = "".join(chosen)
    return text, len(template.encode(text))
