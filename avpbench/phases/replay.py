"""The raw transcript, and the same words forced through another strategy's hops."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from torch import Tensor

from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.engine.engine import Engine
from avpbench.links.shared import Shared
from avpbench.strategies.raw import Raw
from avpbench.strategies.strategy import Strategy

_Ids = tuple[tuple[int, ...], ...]
_SAID: WeakKeyDictionary[Engine, dict[Hashable, list[_Ids]]] = WeakKeyDictionary()  # by the last engine: gone when it is


def raw_transcript(cell: Cell, indices: Sequence[int]) -> list[ChainResult]:
    """The agents before the last, handing over raw caches by reference, saying again what they said.

    What they say is remembered: other strategies on the same engines hear the same words without their being spoken anew. It is
    said again the first time too, since K/V of words that are read differ in rounding from those of words that are sampled.
    """
    raw = cell.through(Raw(), Shared())
    specs = tuple(agent.spec for agent in cell.agents)
    asked = (cell.settings, specs, tuple(cell.prompts(i) for i in indices), tuple(indices))
    known = _SAID.setdefault(cell.agents[-1].engine, {})
    if asked not in known:
        known[asked] = [result.new_ids for result in _ahead(raw, indices, None)]
    return _ahead(raw, indices, known[asked])


def replayed(
    cell: Cell, strategy: Strategy, indices: Sequence[int], spoken: Sequence[ChainResult], demands: Sequence[Tensor] | None = None
) -> list[ChainResult]:
    """The agents before the last, saying what was spoken, handing over by the strategy through bytes; `demands` are told to its
    controller."""
    if strategy.kind == Raw.kind:
        return list(spoken)
    through = cell.through(strategy, cell.agents[0].link.in_process())
    return _ahead(through, indices, [result.new_ids for result in spoken], demands)


def _ahead(
    cell: Cell, indices: Sequence[int], scripts: Sequence[Sequence[tuple[int, ...]]] | None, demands: Sequence[Tensor] | None = None
) -> list[ChainResult]:
    ahead = cell.settings.chain - 1
    jobs = cell.jobs(indices, scripts, ahead)
    if demands is not None:
        jobs = tuple(replace(job, demands=tuple(demands)) for job in jobs)
    return run_chain(cell.agents[:ahead], [cell.prompts(i)[:ahead] for i in indices], jobs, to_go_on=True)
