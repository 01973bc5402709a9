"""Validity gates: what must hold for a run's numbers to mean anything. They fail the run, not warn.

Agreement means within a small multiple of the floor (avpbench.probe).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from avpbench import wire
from avpbench.agents import Agent, Opened
from avpbench.core import KVCache, Parcel, Prefix, Prompt
from avpbench.engine.batch import Start
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling
from avpbench.errors import GateFailed, WireError
from avpbench.links.direct import Direct
from avpbench.links.shared import Shared
from avpbench.probe import WORDS, Probe, difference, disagreement, fingerprint, job
from avpbench.progress import progress
from avpbench.strategies.raw import Raw
from avpbench.strategies.reprefill import Reprefill

_MULTIPLE = 4.0
_ROUNDINGS = 100.0


@final
@dataclass(frozen=True, slots=True)
class Gate:
    """One gate's outcome: what was measured, the limit it was held to, in the gate's own unit."""

    name: str
    passed: bool
    measured: float
    limit: float
    detail: str


def floor_is_small(probe: Probe) -> Gate:
    """Legitimate orders differ by rounding, and not by more: a fault in them would hide every other fault."""
    limit = _ROUNDINGS * probe.rounding
    return Gate("floor_is_small", probe.floor <= limit, probe.floor, limit, "largest logit difference between legitimate orders")


def raw_equals_reprefill(probe: Probe) -> Gate:
    """Handing over the cache and recomputing it give the same logits, after words and after latent steps."""
    measured = max(probe.from_scratch(probe.through(Raw(), state), state) for state in (probe.state, probe.thought))
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
    together = [done.new_ids for done in engine.speak(starts, job(len(starts)).speeches, Sampling())]
    alone = [engine.speak([start], job(1).speeches, Sampling())[0].new_ids for start in starts]
    pairs = [*zip(starts, alone, together, strict=True), (starts[1], alone[1], alone[0])]
    worst = max(disagreement(engine, start, a, b) for start, a, b in pairs)
    return Gate("same_ids", worst <= _MULTIPLE * probe.floor, worst, _MULTIPLE * probe.floor, "margin at the first id that differs")


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


def budgets_hold(probe: Probe, agents: Sequence[Agent]) -> Gate:
    """No parcel is larger than its strategy's budget allows."""
    over = 0
    for agent in agents:
        most = agent.strategy.most_bytes(probe.state, probe.engine)
        size = len(wire.encode(agent.strategy.export(probe.state, probe.engine, probe.engine.spec)))
        over = max(over, size - (size if most is None else most))
    return Gate("budgets_hold", over <= 0, over, 0, "bytes over the budget")


def sender_unchanged(probe: Probe, agents: Sequence[Agent]) -> Gate:
    """The sender's cache is what it was after a receiver, by reference, went on from it."""
    before = fingerprint(probe.state.cache)
    for agent in agents:
        own = replace(agent, engine=probe.engine, link=Shared())
        message = own.send(probe.state, probe.engine.spec).message
        prompt = Prompt("solver", WORDS[1], "")
        opened: Opened = own.receive(message, prompt)
        own.act([opened], [prompt], job(1))
    changed = fingerprint(probe.state.cache) != before
    return Gate("sender_unchanged", not changed, float(changed), 0, "1 where the sender's cache changed")


def shifted_position_detected(probe: Probe) -> Gate:
    """A prefix whose continuation stands one position too late does not pass for the right one."""
    cache = probe.state.cache
    ids = probe.state.token_ids[: cache.span]
    late = Prefix(token_ids=(*ids, ids[-1]), cache=replace(cache, span=cache.span + 1))
    right = Prefix(token_ids=ids)
    measured = difference(probe.logits_after(late), probe.logits_after(right))
    return _beyond("shifted_position_detected", measured, probe.floor, "logit difference that one position makes")


def shown_pad_detected(probe: Probe) -> Gate:
    """Padding that attention can see, as much as a batch of the probe's prompts has, does not go unnoticed."""
    cache = probe.state.cache
    lengths = [len(start.prompt_ids) for start in probe.starts]
    pads = max(lengths) - min(lengths)
    padded = [torch.cat([t[:, :1].repeat(1, pads, 1), t], dim=1) for t in (*cache.keys_HTD, *cache.values_HTD)]
    half = len(cache.keys_HTD)
    positions = torch.cat([torch.zeros_like(cache.positions_T[:1]).repeat(pads), cache.positions_T])
    shown = KVCache(tuple(padded[:half]), tuple(padded[half:]), positions, cache.span)
    measured = probe.from_scratch(Prefix(token_ids=probe.state.token_ids, cache=shown), probe.state)
    return _beyond("shown_pad_detected", measured, probe.floor, "logit difference that a batch's visible padding makes")


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
    own = [agent for agent in agents if agent.engine is engine]
    used = [*own[:1], Agent(engine, Raw(), Direct()), Agent(engine, Reprefill(), Direct())]
    fast: tuple[Callable[[Probe], Gate], ...] = (
        floor_is_small,
        raw_equals_reprefill,
        same_ids,
        partial(parcels_round_trip, agents=used),
        partial(budgets_hold, agents=used),
        partial(sender_unchanged, agents=used),
    )
    detections = (shifted_position_detected, shown_pad_detected, wrong_model_detected)
    chosen = (*fast, *detections) if full else fast
    gates = []
    with progress(f"gates of {engine.spec.name}", 1 + len(chosen)) as advance:
        probe = Probe.make(engine)
        advance(1)
        for gate in chosen:
            gates.append(gate(probe))
            advance(1)
    return gates


def require(gates: Sequence[Gate]) -> None:
    """Raises GateFailed, naming every gate that did not hold."""
    failed = [g for g in gates if not g.passed]
    if failed:
        rows = "; ".join(f"{g.name}: {g.detail} is {g.measured:.3g}, limit {g.limit:.3g}" for g in failed)
        raise GateFailed(f"the run stops because its numbers would mean nothing: {rows}")
