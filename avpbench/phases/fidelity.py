"""Fidelity: the raw transcript replayed through this strategy's hops, and the gold continuation scored at the receiver."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from avpbench.cell import Cell
from avpbench.links.direct import Direct
from avpbench.phases.blocks import halving, run_missing
from avpbench.phases.replay import raw_transcript, replayed
from avpbench.records import FidelityRecord, Journal
from avpbench.strategies.raw import Raw


def run(cell: Cell, journal: Journal[FidelityRecord], check_stop: Callable[[], None]) -> None:
    """Scores every problem that the journal does not hold yet, in the blocks of the quality phase."""

    def compute(block: Sequence[int]) -> list[FidelityRecord]:
        return halving(block, lambda part: score(cell, part), _raise)

    for _ in run_missing("fidelity", cell, journal, compute, check_stop):
        pass


def _raise(_index: int, error: Exception) -> FidelityRecord:
    raise error


def score(cell: Cell, indices: Sequence[int]) -> list[FidelityRecord]:
    """KL(raw || strategy) on the gold continuation, a mean over its tokens, per problem."""
    spoken = raw_transcript(cell, indices)
    engine = cell.agents[-1].engine
    gold = [engine.template.encode(cell.task.problem(i).solution) for i in indices]
    scores = []
    for one in (cell.through(Raw(), Direct()), cell):
        states = [result.state for result in replayed(one, one.agents[0].strategy, indices, spoken)]
        sent = [one.agents[-2].send(state, engine.spec).message for state in states]
        starts = [one.agents[-1].receive(message, cell.prompts(i)[-1]).start for message, i in zip(sent, indices, strict=True)]
        scores.append(engine.score(starts, gold))
    return [
        _record(cell.task.problem(i).id, torch.tensor(ids), a.cpu(), b.cpu()) for i, ids, a, b in zip(indices, gold, *scores, strict=True)
    ]


def _record(sample_id: str, gold_M: torch.Tensor, raw_MV: torch.Tensor, ours_MV: torch.Tensor) -> FidelityRecord:
    finite = raw_MV > -torch.inf
    kl_M = torch.where(finite, raw_MV.exp() * (raw_MV - ours_MV), 0.0).sum(dim=-1)
    pick = gold_M[:, None]
    return FidelityRecord(
        sample_id=sample_id,
        tokens=len(gold_M),
        kl=float(kl_M.mean()),
        nll=float(-ours_MV.gather(1, pick).mean()),
        raw_nll=float(-raw_MV.gather(1, pick).mean()),
        top1_flips=float((raw_MV.argmax(-1) != ours_MV.argmax(-1)).float().mean()),
    )
