"""`raw` and `reprefill` on 1,000 problems, float32, at batch 1 and batch 32: are all ids the same?

A difference is excused only where the margin between the two ids is inside the floor; each one is listed.

    python experiments/spine/identical_ids.py [problems]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from avpbench.chain import run_chain
from avpbench.config import compose
from avpbench.core import Prefix
from avpbench.engine.batch import Start
from avpbench.engine.engine import Engine
from avpbench.engine.load import load, resolve_device, resolve_dtype
from avpbench.meter import now_s
from avpbench.probe import Probe, disagreement
from avpbench.progress import progress
from avpbench.records import TurnRecord
from avpbench.setup import cell_of, sources_of

MULTIPLE = 4


@dataclass(frozen=True)
class Said:
    """What a chain said, without its caches."""

    new_ids: tuple[tuple[int, ...], ...]
    token_ids: tuple[int, ...]
    turns: tuple[TurnRecord, ...]


def chains(strategy: str, batch: int, count: int) -> list[Said]:
    cell = cell_of(compose([f"strategy={strategy}", f"batch_size={batch}", f"limit={count}", "device=cpu", "dtype=float32"]))
    done: list[Said] = []
    with progress(f"{strategy}, batch {batch}", count) as advance:
        for begin in range(0, count, batch):
            block = range(begin, min(begin + batch, count))
            results = run_chain(cell.agents, [cell.prompts(i) for i in block], cell.jobs(block))
            done += [Said(r.new_ids, r.state.token_ids, r.turns) for r in results]
            advance(len(block))
    return done


def main(count: int) -> None:
    cfg = compose([])
    engine = load(sources_of(cfg, 1)[0], resolve_device("cpu"), resolve_dtype("float32", resolve_device("cpu")))
    floor = Probe.make(engine).floor
    print(f"{engine.spec.name}, float32, chain of 4, {count} problems; floor {floor:.2e}, excused up to {MULTIPLE} floors")
    began = now_s()
    outside = 0
    variants = {(s, b): chains(s, b, count) for b in (32, 1) for s in ("raw", "reprefill")}
    reference = variants["reprefill", 1]
    for (strategy, batch), done in variants.items():
        differ = excused = 0
        for index, (mine, right) in enumerate(zip(done, reference, strict=True)):
            place = next((k for k, (a, b) in enumerate(zip(mine.new_ids, right.new_ids, strict=True)) if a != b), None)
            if place is None:
                continue
            differ += 1
            margin = first_margin(right, mine, place, engine)
            excused += margin <= MULTIPLE * floor
            outside += margin > MULTIPLE * floor
            print(f"  problem {index}, agent {place + 1}: margin {margin:.2e} {'inside' if margin <= MULTIPLE * floor else 'OUTSIDE'}")
        print(
            f"{strategy:10s} batch {batch:2d}: {count - differ} of {count} identical to reprefill at batch 1, {excused} of {differ} excused"
        )
    print(f"{now_s() - began:.0f} s")
    sys.exit(outside > 0)


def first_margin(right: Said, mine: Said, place: int, engine: Engine) -> float:
    """The margin at the first id that differs, from the reference's own conversation."""
    turn = right.turns[place]
    upto = turn.cached_tokens + turn.prefilled_tokens
    return disagreement(engine, Start(Prefix(), right.token_ids[:upto]), right.new_ids[place], mine.new_ids[place])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
