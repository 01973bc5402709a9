"""A short hand-off to check a run with, and how far logits may lie apart without anything being wrong.

The floor is the largest logit difference between legitimate evaluation orders of the same tokens: one piece, two
pieces, with batch mates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
import xxhash
from torch import Tensor

from avpbench import wire
from avpbench.agents import Agent, Speak, Think
from avpbench.core import AgentState, KVCache, Prefix, Prompt
from avpbench.engine.batch import Start
from avpbench.engine.capture import CAPTURES
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.links.direct import Direct
from avpbench.strategies.raw import Raw
from avpbench.strategies.reprefill import Reprefill
from avpbench.strategies.strategy import Strategy

_TOKENS = 12
_THOUGHTS = 2
WORDS = (
    "Tom has 12 apples. Sue has 3 more apples than Tom. How many apples do they have together?",
    "Ben has 7 pens.",
    "Each of the 5 boxes holds 6 eggs, and Amy sells 4 of the boxes for 3 dollars each. How many dollars does Amy get?",
)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Probe:
    """A short hand-off that costs little on any model: a sender's state and the ids that follow it."""

    engine: Engine
    state: AgentState
    thought: AgentState
    starts: tuple[Start, ...]
    following: tuple[int, ...]
    floor: float
    rounding: float

    @classmethod
    def make(cls, engine: Engine) -> Probe:
        agent = Agent(engine, Raw(), Direct())
        prompts = [Prompt("solver", words, words) for words in WORDS]
        opened = [agent.receive(None, prompt) for prompt in prompts]
        state, thought = (_wanted(agent.act(opened[:1], prompts[:1], one, needs=CAPTURES)[0][0]) for one in (job(1), Think(_THOUGHTS)))
        starts = tuple(one.start for one in opened)
        return cls(engine, state, thought, starts, engine.template.following(WORDS[1]), *floor(engine, starts))

    def logits_after(self, prefix: Prefix) -> Tensor:
        """Logits_V of the first token that follows the prefix."""
        return self.engine.prefill([Start(prefix, self.following)])[1][0].float().cpu()

    def through(self, strategy: Strategy, state: AgentState) -> Prefix:
        """The state handed over through bytes."""
        parcel = strategy.export(state, self.engine, self.engine.spec)
        return strategy.inject(wire.decode(wire.encode(parcel)), self.engine)

    def from_scratch(self, prefix: Prefix, state: AgentState) -> float:
        """Largest logit difference between going on from this prefix and recomputing everything."""
        return difference(self.logits_after(prefix), self.logits_after(self.through(Reprefill(), state)))


def _wanted(state: AgentState) -> AgentState:
    """The state with a demand for every token, for a controller that is told one."""
    return replace(state, captured=replace(state.captured, demand_S=torch.ones(len(state.token_ids))))


def floor(engine: Engine, starts: Sequence[Start]) -> tuple[float, float]:
    """The largest logit difference between one piece, two pieces and a batch of equals; and the logits' rounding.

    The floor is not below the rounding. Batch mates are of one length, so that a fault in padding cannot raise it.
    """
    alone = torch.cat([engine.prefill([s])[1] for s in starts]).float().cpu()
    mates, pieces = [], []
    for s in starts:
        mates.append(engine.prefill([s, s, s])[1][1:2])
        cut = len(s.prompt_ids) // 2
        caches = engine.prefill([Start(Prefix(), s.prompt_ids[:cut])]).caches
        prefix = Prefix(token_ids=s.prompt_ids[:cut], cache=caches[0])
        pieces.append(engine.prefill([Start(prefix, s.prompt_ids[cut:])])[1])
    rounding = float(alone[~alone.isneginf()].abs().max()) * torch.finfo(engine.model.dtype).eps
    return max(*(difference(alone, torch.cat(rows).float().cpu()) for rows in (mates, pieces)), rounding), rounding


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, infinite where either is not a number; rows masked out (-inf) in both are left out."""
    seen = ~(a.isneginf() & b.isneginf())
    gap = (a[seen] - b[seen]).abs()
    return float(gap.max()) if bool(gap.isfinite().all()) else float("inf")


def job(rows: int) -> Speak:
    return Speak(tuple(Speech(_TOKENS, generator("gate")) for _ in range(rows)), Sampling())


def disagreement(engine: Engine, start: Start, a: Sequence[int], b: Sequence[int]) -> float:
    """The margin between the two ids where two greedy continuations part, in log-probability; 0 where they agree."""
    if tuple(a) == tuple(b):
        return 0.0
    at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if at is None:
        return float("inf")
    scores = engine.score([start], [tuple(a[: at + 1])])[0][at]
    return float((scores[a[at]] - scores[b[at]]).abs())


def fingerprint(cache: KVCache) -> str:
    """A hash of everything that the cache holds."""
    hasher = xxhash.xxh3_128()
    for t in (*cache.keys_HTD, *cache.values_HTD, cache.positions_T):
        hasher.update(t.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
