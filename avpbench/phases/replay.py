"""The raw transcript, and the same words forced through another strategy's hops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.links.shared import Shared
from avpbench.strategies.raw import Raw
from avpbench.strategies.strategy import Strategy


def raw_transcript(cell: Cell, indices: Sequence[int]) -> list[ChainResult]:
    """The agents before the last, handing over raw caches by reference."""
    return _ahead(cell.through(Raw(), Shared()), indices, None)


def replayed(
    cell: Cell, strategy: Strategy, indices: Sequence[int], spoken: Sequence[ChainResult], demands: Sequence[Tensor] | None = None
) -> list[ChainResult]:
    """The agents before the last, saying what was spoken, handing over by the strategy; `demands` are told to its controller."""
    if strategy.kind == Raw.kind:
        return list(spoken)
    return _ahead(cell.through(strategy, Shared()), indices, [result.new_ids for result in spoken], demands)


def _ahead(
    cell: Cell, indices: Sequence[int], scripts: Sequence[Sequence[tuple[int, ...]]] | None, demands: Sequence[Tensor] | None = None
) -> list[ChainResult]:
    ahead = cell.settings.chain - 1
    jobs = cell.jobs(indices, scripts, ahead)
    if demands is not None:
        jobs = tuple(replace(job, demands=tuple(demands)) for job in jobs)
    return run_chain(cell.agents[:ahead], [cell.prompts(i)[:ahead] for i in indices], jobs, to_go_on=True)
