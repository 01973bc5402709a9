"""Latency: the last hop of the raw transcript, batch 1, ids forced; this strategy and its rivals in one process.

Each block runs every strategy once by every clock, in random order. A strategy of which several runs fit into the time of the
block's slowest one is then run again, its runs spread evenly among the others', so that a slow phase of the machine meets all alike; its
time of the block is their mean. Every run is kept.
Warm-ups are runs by bytes: each passes through every step that a clock measures, but for the passes of an export's captures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from avpbench.cell import Cell
from avpbench.core import AgentState
from avpbench.phases.distant import distant_hops
from avpbench.phases.hop import LastHop, Place, TimedHop, Timing, cut, repeated, sized
from avpbench.phases.replay import raw_transcript, replayed
from avpbench.progress import progress, say
from avpbench.records import Journal, LatencyRecord, whole_blocks
from avpbench.strategies.strategy import Strategy

_PROBLEMS = 8  # blocks go round this many transcripts


def run(
    cell: Cell, strategies: Sequence[Strategy], timing: Timing, journal: Journal[LatencyRecord], check_stop: Callable[[], None]
) -> None:
    """Times blocks until the journal holds `repeats` whole ones; each transcript is warmed up by each strategy first."""
    entrants = [(s, False) for s in strategies] + ([(strategies[0], True)] if timing.aa else [])
    rows = journal.read()
    missing = max(0, timing.repeats - len(whole_blocks(rows, {(s.label, aa) for s, aa in entrants})))
    first = 1 + max((row.block for row in rows), default=-1)
    hops: dict[int, Sequence[TimedHop]] = {}
    with progress("latency", timing.repeats, timing.repeats - missing) as advance:
        for block in range(first, first + missing):
            check_stop()
            index = block % min(_PROBLEMS, cell.num_samples)
            if index not in hops:
                hops[index] = timed_hops(cell, strategies, index, timing)
                for hop in [*hops[index]] * timing.warmup:
                    hop.by_bytes(Place(block, 0, False))
            by_label = {hop.strategy.label: hop for hop in hops[index]}
            rng = random.Random(f"{cell.settings.seed}/{block}")
            for record in timed_block([(by_label[s.label], aa) for s, aa in entrants], block, timing.runs, rng):
                journal.append(record)
            advance(1)
    for label in sorted({row.strategy for row in journal.read() if row.fell_back}):
        say(f"note: {label} fell back to words in the last hop, and those are no times of it")


def timed_block(entrants: Sequence[tuple[TimedHop, bool]], block: int, runs: int, rng: random.Random) -> list[LatencyRecord]:
    """Every (hop, whether it is the second of A/A) by every clock; then again by bytes, up to `runs` times in all, what is quick."""
    first = rng.sample(entrants, len(entrants))
    taken = [hop.every_clock(Place(block, order, aa)) for order, (hop, aa) in enumerate(first)]
    spent_s = [next(r.seconds - (r.modelled_s or 0.0) for r in rows if r.clock == "handoff") for rows in taken]
    more = [min(runs, int(max(spent_s) / one_s)) - 1 for one_s in spent_s]
    places = [((turn + rng.random()) / count, k) for k, count in enumerate(more) for turn in range(count)]
    again = [first[k] for _, k in sorted(places)]
    taken += [hop.by_bytes(Place(block, order, aa)) for order, (hop, aa) in enumerate(again, len(first))]
    return [record for rows in taken for record in rows]


def timed_hops(cell: Cell, strategies: Sequence[Strategy], index: int, timing: Timing) -> Sequence[TimedHop]:
    """The last hop of one problem by each strategy, between the processes that the agents live in."""
    if cell.crew is None:
        return last_hops(cell, strategies, index, timing)
    return distant_hops(cell, cell.crew, strategies, index, timing)


def last_hops(cell: Cell, strategies: Sequence[Strategy], index: int, timing: Timing) -> list[LastHop]:
    """The last sender of the raw transcript, replayed through each strategy's own hops."""
    spoken = raw_transcript(cell, [index])
    given = None if timing.prefix_tokens is None else _given(cell, strategies, spoken[0].state, timing.prefix_tokens)
    hops = []
    for strategy in strategies:
        through = cell.through(strategy)
        state = given or replayed(cell, strategy, [index], spoken)[0].state
        told = cut(cell.prompts(index)[-1], through.agents[-1], timing.new_tokens)
        hops.append(LastHop(strategy, through.agents[-2], through.agents[-1], state, told, cell.task.problem(index).id, timing.new_tokens))
    return hops


def _given(cell: Cell, strategies: Sequence[Strategy], said: AgentState, num_tokens: int) -> AgentState:
    """What was said, repeated or cut to so many tokens, with all that any of the strategies asks to be kept: read once for all of them."""
    ids = repeated([i for i in said.token_ids if i >= 0], num_tokens)
    return sized(cell.agents[-2], ids, said.turn.role, said.question, frozenset().union(*(s.needs for s in strategies)))
