"""Fidelity: the raw transcript replayed through this strategy's hops, and the gold continuation scored at the receiver."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avpbench.cell import Cell
from avpbench.core import AgentState, KVCache, Queries
from avpbench.engine.attention import demand, output_errors
from avpbench.engine.batch import Start
from avpbench.links.direct import Direct
from avpbench.phases.blocks import run_missing
from avpbench.phases.replay import raw_transcript, replayed
from avpbench.records import FidelityRecord, Journal
from avpbench.strategies.raw import Raw


def run(cell: Cell, journal: Journal[FidelityRecord], check_stop: Callable[[], None]) -> None:
    """Scores every problem that the journal does not hold yet, in the blocks of the quality phase."""
    for _ in run_missing("fidelity", cell, journal, lambda part: score(cell, part), _raise, check_stop):
        pass


def _raise(_index: int, error: Exception) -> FidelityRecord:
    raise error


def score(cell: Cell, indices: Sequence[int]) -> list[FidelityRecord]:
    """KL(raw || strategy) on the gold continuation, a mean over its tokens, per problem; and what the attention reads amiss.

    The transcript's hops are replayed in this process, whatever the link, and go through bytes.
    """
    cell = cell.through(cell.agents[0].strategy, cell.agents[0].link.in_process())
    spoken = raw_transcript(cell, indices)
    engine = cell.agents[-1].engine
    gold = [engine.template.encode(cell.task.problem(i).solution) for i in indices]
    raw, _ = _starts(cell.through(Raw(), Direct()), indices, [result.state for result in spoken])
    behind = engine.behind(raw, gold)
    demands = [demand(queries.predicting(len(ids)), cache) for (queries, cache), ids in zip(behind, gold, strict=True)]
    states = [result.state for result in replayed(cell, cell.agents[0].strategy, indices, spoken, demands)]
    ours, bits = _starts(cell, indices, states)
    records = []
    scores = zip(engine.score(raw, gold), engine.score(ours, gold), strict=True)
    for place, (index, (raw_MV, ours_MV)) in enumerate(zip(indices, scores, strict=True)):
        truth, other = raw[place].prefix.cache, ours[place].prefix.cache
        spans = [hop.num_values // engine.spec.values_per_token for hop in spoken[place].hops if hop.num_values]
        errors = _errors(behind[place][0], truth, other, spans) if truth and other else None
        name, gold_M = cell.task.problem(index).id, torch.tensor(gold[place])
        records.append(_record(name, gold_M, raw_MV.cpu(), ours_MV.cpu(), errors, bits[place]))
    return records


def _starts(cell: Cell, indices: Sequence[int], states: Sequence[AgentState]) -> tuple[list[Start], list[float | None]]:
    """Where the last agent begins, handed over from these states; and the bits of each hand-over, a value that it stands for."""
    sender, receiver = cell.agents[-2:]
    sent = [sender.send(state, receiver.spec) for state in states]
    starts = [receiver.receive(out.message, cell.prompts(i)[-1]).start for out, i in zip(sent, indices, strict=True)]
    return starts, [8 * out.wire_bytes / out.num_values if out.num_values else None for out in sent]


def _errors(queries: Queries, truth: KVCache, other: KVCache, spans: Sequence[int]) -> list[list[float]]:
    """Per hop, per layer, to four digits: how far what the queries read in what was handed over until then is from what they read in
    raw's. Of the cache as the last hop leaves it: what is coded anew at every hop may have been better before."""
    found = (output_errors(queries, truth.first(span), other.first(span)) for span in (*spans, truth.span))
    return [[float(f"{error:.4g}") for error in layers] for layers in found]


def _record(
    sample_id: str, gold_M: Tensor, raw_MV: Tensor, ours_MV: Tensor, errors: list[list[float]] | None, bits: float | None
) -> FidelityRecord:
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
        attention_errors=errors,
        mean_bits=bits,
    )
