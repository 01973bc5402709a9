"""Fidelity: the raw transcript replayed through this strategy's hops, and the gold continuation scored at the receiver."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from avpbench.cell import Cell
from avpbench.chain import run_chain
from avpbench.core import LATENT
from avpbench.engine.batch import Start
from avpbench.links.direct import Direct
from avpbench.progress import progress
from avpbench.records import FidelityRecord, Journal
from avpbench.strategies.raw import Raw


def run(cell: Cell, journal: Journal, stopping: Callable[[], bool]) -> None:
    """Scores every problem that the journal does not hold yet, in the blocks of the quality phase."""
    done = {row["sample_id"] for row in journal.read()}
    size = cell.settings.batch_size
    with progress("fidelity", cell.num_samples, len(done)) as advance:
        for begin in range(0, cell.num_samples, size):
            block = range(begin, min(begin + size, cell.num_samples))
            missing = {i for i in block if cell.task.problem(i).id not in done}
            if not missing:
                continue
            if stopping():
                raise KeyboardInterrupt
            for index, record in zip(block, score_block(cell, block), strict=True):
                if index in missing:
                    journal.append(record)
            advance(len(missing))


def score_block(cell: Cell, indices: Sequence[int]) -> list[FidelityRecord]:
    """KL(raw || strategy) on the gold continuation, a mean over its tokens, per problem."""
    prompts = [cell.prompts(i) for i in indices]
    raw = cell.through(Raw(), Direct())
    ahead = cell.settings.chain - 1
    spoken = run_chain(raw.agents[:ahead], [p[:ahead] for p in prompts], cell.jobs(indices)[:ahead])
    forced = cell.jobs(indices, [(*result.new_ids, (0,)) for result in spoken])[:ahead]
    engine = cell.agents[-1].engine
    gold = [engine.template.encode(cell.task.problem(i).solution) for i in indices]
    scores = []
    for one in (raw, cell):
        states = [r.state for r in run_chain(one.agents[:ahead], [p[:ahead] for p in prompts], forced)]
        sent = [one.agents[-2].send(state, engine.spec).message for state in states]
        starts: list[Start] = [one.agents[-1].receive(m, p[-1]).start for m, p in zip(sent, prompts, strict=True)]
        scores.append(engine.score(starts, gold))
    return [
        _record(cell.task.problem(i).id, torch.tensor(ids), a.cpu(), b.cpu()) for i, ids, a, b in zip(indices, gold, *scores, strict=True)
    ]


def _record(sample_id: str, gold_M: torch.Tensor, raw_MV: torch.Tensor, ours_MV: torch.Tensor) -> FidelityRecord:
    assert bool((gold_M != LATENT).all())
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
