"""Validity gates: what must hold for a run's numbers to mean anything. They fail the run, not warn.

The floor is the largest logit difference between legitimate evaluation orders of the same tokens: one piece, two
pieces, with batch mates. Agreement means within a small multiple of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import final

import torch
import xxhash
from torch import Tensor

from avpbench import wire
from avpbench.agents import Agent, Opened, Speak, Think
from avpbench.core import AgentState, KVCache, Parcel, Prefix, Prompt
from avpbench.engine.batch import Start
from avpbench.engine.engine import Engine, Speech
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import GateFailed, WireError
from avpbench.links.direct import Direct
from avpbench.links.shared import Shared
from avpbench.strategies.raw import Raw
from avpbench.strategies.reprefill import Reprefill
from avpbench.strategies.strategy import Strategy

_MULTIPLE = 4.0
_ROUNDINGS = 100.0
_TOKENS = 12
_THOUGHTS = 2
_WORDS = (
    "Tom has 12 apples. Sue has 3 more apples than Tom. How many apples do they have together?",
    "Ben has 7 pens.",
    "Each of the 5 boxes holds 6 eggs, and Amy sells 4 of the boxes for 3 dollars each. How many dollars does Amy get?",
)


@final
@dataclass(frozen=True, slots=True)
class Gate:
    """One gate's outcome: what was measured, the limit it was held to, in the gate's own unit."""

    name: str
    passed: bool
    measured: float
    limit: float
    detail: str


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
        prompts = [Prompt("solver", words, words) for words in _WORDS]
        opened = [agent.receive(None, prompt) for prompt in prompts]
        state, _ = agent.act(opened[:1], prompts[:1], _job(1))[0]
        thought, _ = agent.act(opened[:1], prompts[:1], Think(_THOUGHTS))[0]
        starts = tuple(one.start for one in opened)
        return cls(engine, state, thought, starts, engine.template.following(_WORDS[1]), *floor(engine, starts))

    def logits_after(self, prefix: Prefix) -> Tensor:
        """Logits_V of the first token that follows the prefix."""
        return self.engine.prefill([Start(prefix, self.following)])[1][0].float().cpu()

    def through(self, strategy: Strategy, state: AgentState) -> Prefix:
        """The state handed over through bytes."""
        parcel = strategy.export(state, self.engine, self.engine.spec)
        return strategy.inject(wire.decode(wire.encode(parcel)), self.engine)

    def difference(self, prefix: Prefix, state: AgentState) -> float:
        """Largest logit difference between going on from this prefix and recomputing everything."""
        return _difference(self.logits_after(prefix), self.logits_after(self.through(Reprefill(), state)))


def floor(engine: Engine, starts: Sequence[Start]) -> tuple[float, float]:
    """The largest logit difference between one piece, two pieces and a batch of equals; and the logits' rounding.

    The floor is not below the rounding. Batch mates are of one length, so that a fault in padding cannot raise it.
    """
    alone = torch.cat([engine.prefill([s])[1] for s in starts]).float().cpu()
    mates, pieces = [], []
    for s in starts:
        mates.append(engine.prefill([s, s, s])[1][1:2])
        cut = len(s.prompt_ids) // 2
        caches, _ = engine.prefill([Start(Prefix(), s.prompt_ids[:cut])])
        prefix = Prefix(token_ids=s.prompt_ids[:cut], cache=caches[0])
        pieces.append(engine.prefill([Start(prefix, s.prompt_ids[cut:])])[1])
    rounding = float(alone[~alone.isneginf()].abs().max()) * torch.finfo(engine.model.dtype).eps
    return max(*(_difference(alone, torch.cat(rows).float().cpu()) for rows in (mates, pieces)), rounding), rounding


def floor_is_small(probe: Probe) -> Gate:
    """Legitimate orders differ by rounding, and not by more: a fault in them would hide every other fault."""
    limit = _ROUNDINGS * probe.rounding
    return Gate("floor_is_small", probe.floor <= limit, probe.floor, limit, "largest logit difference between legitimate orders")


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, infinite where either is not a number; rows masked out (-inf) in both are left out."""
    seen = ~(a.isneginf() & b.isneginf())
    gap = (a[seen] - b[seen]).abs()
    return float(gap.max()) if bool(gap.isfinite().all()) else float("inf")


def _job(rows: int) -> Speak:
    return Speak(tuple(Speech(_TOKENS, generator("gate")) for _ in range(rows)), Sampling())


def raw_equals_reprefill(probe: Probe) -> Gate:
    """Handing over the cache and recomputing it give the same logits, after words and after latent steps."""
    measured = max(probe.difference(probe.through(Raw(), state), state) for state in (probe.state, probe.thought))
    return _within("raw_equals_reprefill", measured, probe.floor, "largest logit difference between raw and re-prefill")


def _within(name: str, measured: float, floor: float, detail: str) -> Gate:
    return Gate(name, measured <= _MULTIPLE * floor < float("inf"), measured, _MULTIPLE * floor, detail)


def _beyond(name: str, measured: float, floor: float, detail: str) -> Gate:
    return Gate(name, measured > _MULTIPLE * floor, measured, _MULTIPLE * floor, detail)


def same_ids(probe: Probe) -> Gate:
    """Raw and re-prefill, and batch 1 and a left-padded batch, choose the same ids wherever the margin exceeds the floor."""
    engine = probe.engine
    raw, recomputed = probe.through(Raw(), probe.state), probe.through(Reprefill(), probe.state)
    starts = [Start(raw, probe.following), Start(recomputed, probe.following), *probe.starts]
    together = [done.new_ids for done in engine.speak(starts, _job(len(starts)).speeches, Sampling())]
    alone = [engine.speak([start], _job(1).speeches, Sampling())[0].new_ids for start in starts]
    pairs = [*zip(starts, alone, together, strict=True), (starts[1], alone[1], alone[0])]
    worst = max(disagreement(engine, start, a, b) for start, a, b in pairs)
    return Gate("same_ids", worst <= _MULTIPLE * probe.floor, worst, _MULTIPLE * probe.floor, "margin at the first id that differs")


def disagreement(engine: Engine, start: Start, a: Sequence[int], b: Sequence[int]) -> float:
    """The margin between the two ids where two greedy continuations part, in log-probability; 0 where they agree."""
    if tuple(a) == tuple(b):
        return 0.0
    at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if at is None:
        return float("inf")
    scores = engine.score([start], [tuple(a[: at + 1])])[0][at]
    return float((scores[a[at]] - scores[b[at]]).abs())


def parcels_round_trip(probe: Probe, agents: Sequence[Agent]) -> Gate:
    """What is decoded is what was encoded, bit for bit, and the record's bytes are the buffer's."""
    wrong = 0
    for agent in agents:
        parcel = agent.strategy.export(probe.state, probe.engine, probe.engine.spec)
        buffer = wire.encode(parcel)
        back = wire.decode(buffer)
        wrong += asdict(back.card) != asdict(parcel.card) or back.tensors.keys() != parcel.tensors.keys()
        wrong += sum(not _same_bits(back.tensors[name], t) for name, t in parcel.tensors.items())
        out = replace(agent, link=Direct()).send(probe.state, probe.engine.spec)
        wrong += out.wire_bytes != len(buffer)
    return Gate("parcels_round_trip", wrong == 0, wrong, 0, "tensors, cards or lengths that differ")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    b = b.cpu().contiguous()
    return a.dtype == b.dtype and a.shape == b.shape and bool((a.contiguous().view(torch.uint8) == b.view(torch.uint8)).all())


def sender_unchanged(probe: Probe, agents: Sequence[Agent]) -> Gate:
    """The sender's cache is what it was after a receiver, by reference, went on from it."""
    before = fingerprint(probe.state.cache)
    for agent in agents:
        own = replace(agent, engine=probe.engine, link=Shared())
        message = own.send(probe.state, probe.engine.spec).message
        prompt = Prompt("solver", _WORDS[1], "")
        opened: Opened = own.receive(message, prompt)
        own.act([opened], [prompt], _job(1))
    changed = fingerprint(probe.state.cache) != before
    return Gate("sender_unchanged", not changed, float(changed), 0, "1 where the sender's cache changed")


def fingerprint(cache: KVCache) -> str:
    """A hash of everything that the cache holds."""
    hasher = xxhash.xxh3_128()
    for t in (*cache.keys_HTD, *cache.values_HTD, cache.positions_T):
        hasher.update(t.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def shifted_position_detected(probe: Probe) -> Gate:
    """A prefix whose continuation stands one position too late does not pass for the right one."""
    cache = probe.state.cache
    ids = probe.state.token_ids[: cache.span]
    late = Prefix(token_ids=(*ids, ids[-1]), cache=replace(cache, span=cache.span + 1))
    right = Prefix(token_ids=ids)
    measured = _difference(probe.logits_after(late), probe.logits_after(right))
    return _beyond("shifted_position_detected", measured, probe.floor, "logit difference that one position makes")


def shown_pad_detected(probe: Probe) -> Gate:
    """A padding column that attention can see does not go unnoticed."""
    cache = probe.state.cache
    zero = [torch.cat([torch.zeros_like(t[:, :1]), t], dim=1) for t in (*cache.keys_HTD, *cache.values_HTD)]
    half = len(cache.keys_HTD)
    positions = torch.cat([torch.zeros_like(cache.positions_T[:1]), cache.positions_T])
    shown = KVCache(tuple(zero[:half]), tuple(zero[half:]), positions, cache.span)
    measured = probe.difference(Prefix(token_ids=probe.state.token_ids, cache=shown), probe.state)
    return _beyond("shown_pad_detected", measured, probe.floor, "logit difference that one visible pad makes")


def wrong_model_detected(probe: Probe) -> Gate:
    """A parcel from other weights is refused."""
    parcel = Raw().export(probe.state, probe.engine, probe.engine.spec)
    other = replace(parcel.card.sender, weights_id="0" * 32)
    try:
        Raw().inject(Parcel(replace(parcel.card, sender=other), parcel.tensors), probe.engine)
    except WireError:
        return Gate("wrong_model_detected", True, 1, 1, "1 where other weights were refused")
    return Gate("wrong_model_detected", False, 0, 1, "1 where other weights were refused")


def check(engine: Engine, agents: Sequence[Agent], full: bool) -> list[Gate]:
    """Runs the gates; every result is returned."""
    probe = Probe.make(engine)
    own = [agent for agent in agents if agent.engine is engine]
    used = [*own[:1], Agent(engine, Raw(), Direct()), Agent(engine, Reprefill(), Direct())]
    gates = [
        floor_is_small(probe),
        raw_equals_reprefill(probe),
        same_ids(probe),
        parcels_round_trip(probe, used),
        sender_unchanged(probe, used),
    ]
    detections: tuple[Callable[[Probe], Gate], ...] = (shifted_position_detected, shown_pad_detected, wrong_model_detected)
    return gates + ([gate(probe) for gate in detections] if full else [])


def require(gates: Sequence[Gate]) -> None:
    """Raises GateFailed, naming every gate that did not hold."""
    failed = [g for g in gates if not g.passed]
    if failed:
        rows = "; ".join(f"{g.name}: {g.detail} is {g.measured:.3g}, limit {g.limit:.3g}" for g in failed)
        raise GateFailed(f"the run stops because its numbers would mean nothing: {rows}")
