"""The raw transcript, and the same words forced through another strategy's hops."""

from __future__ import annotations

from collections.abc import Sequence

from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.links.shared import Shared
from avpbench.strategies.raw import Raw
from avpbench.strategies.strategy import Strategy


def raw_transcript(cell: Cell, indices: Sequence[int]) -> list[ChainResult]:
    """The agents before the last, handing over raw caches by reference."""
    return _ahead(cell.through(Raw(), Shared()), indices, None)


def replayed(cell: Cell, strategy: Strategy, indices: Sequence[int], spoken: Sequence[ChainResult]) -> list[ChainResult]:
    """The agents before the last, saying what was spoken, handing over by the strategy."""
    if strategy.kind == Raw.kind:
        return list(spoken)
    return _ahead(cell.through(strategy, Shared()), indices, [result.new_ids for result in spoken])


def _ahead(cell: Cell, indices: Sequence[int], scripts: Sequence[Sequence[tuple[int, ...]]] | None) -> list[ChainResult]:
    ahead = cell.settings.chain - 1
    return run_chain(cell.agents[:ahead], [cell.prompts(i)[:ahead] for i in indices], cell.jobs(indices, scripts, ahead))
