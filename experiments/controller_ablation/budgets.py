"""Which budgets the study should have: `uniform` at each of many, on dev problems, against raw.

    python experiments/controller_ablation/budgets.py [problems] [budget ...] [OVERRIDE ...] | tee experiments/controller_ablation/budgets.txt

The dev problems are the dev split's, which no test problem is in. The rule: the lowest budget is where uniform loses most of raw's
answers, the middle one where it loses 10 to 30 points and (nearly) all tokens have one level, the highest where the loss cannot be told
from none. The same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from pathlib import Path

from analysis.cells import cells_of
from analysis.estimates import number, point_of, spoken
from analysis.quality import average, contrast
from analysis.studies import load_runs
from avpbench import run
from avpbench.codecs.levels import DROPPED, NATIVE
from avpbench.config import compose
from avpbench.phases.replay import raw_transcript, replayed
from avpbench.setup import cell_of

STUDY, RESULTS = "controller_ablation_dev", Path("results/runs")
DEV = ["task=wordmath", "task.split=dev", "chain=4", "latency=off", "fidelity=on", "tracker=console"]
BUDGETS = ["2", "2.5", "3", "level2", "4", "4.5", "level4"]
SHOWN = 32  # problems whose levels are counted


def levels(words: list[str]) -> str:
    """Which levels `uniform` mixes at this budget: the last parcel of a chain that forwards codes holds every token's."""
    cell, some = cell_of(compose([*words, f"limit={SHOWN}"])), range(SHOWN)
    last = cell.agents[-2]
    ahead = replayed(cell, last.strategy, some, raw_transcript(cell, some))
    parcels = [last.strategy.export(result.state, last.engine, last.spec) for result in ahead]
    counts = Counter(level for parcel in parcels for level in parcel.tensors["levels"].tolist())
    names = {DROPPED: "dropped", NATIVE: "native"}
    return ", ".join(f"{names.get(k, f'{k} bits')} {100 * counts[k] / counts.total():.1f}%" for k in sorted(counts))


def main() -> None:
    given = sys.argv[1:]
    own = [word for word in given if "=" in word]
    numbers = [word for word in given if "=" not in word]
    num, budgets = int(numbers[0]) if numbers else 500, numbers[1:] or BUDGETS
    base = [*DEV, *own, f"study={STUDY}", f"results={RESULTS}"]
    uniform = [*base, "strategy=uniform"]
    with contextlib.redirect_stdout(sys.stderr):  # what runs say of themselves
        run(*base, "strategy=raw", f"limit={num}")
        for budget in budgets:
            run(*uniform, f"strategy.budget_bits={budget}", f"limit={num}")
    cells = [
        c for c in cells_of(load_runs(sorted(p.parent for p in (RESULTS / STUDY).glob("*/summary.json")))) if c.facts["num_samples"] == num
    ]
    raw = point_of(cells, "raw", {"strategy": "raw"})
    print(f"{num} dev problems; raw: {spoken(average(raw, 'accuracy'), '%')} right")
    print(f"{'budget':>6}  {'true bits':>9}  {'uniform - raw (points)':22}  {'KL':24}  levels of uniform")
    for budget in budgets:
        point = point_of(cells, budget, {"controller": "uniform", "budget_bits": budget if budget.startswith("level") else float(budget)})
        loss, kl = contrast(point, raw, "accuracy").effect, average(point, "kl")
        bits = number(average(point, "mean_bits", interval=False).value, "bits")
        with contextlib.redirect_stdout(sys.stderr):
            mix = levels([*uniform, f"strategy.budget_bits={budget}"])
        print(f"{budget:>6}  {bits:>9}  {spoken(loss, 'points'):22}  {spoken(kl, 'nats'):24}  {mix}", flush=True)


if __name__ == "__main__":
    main()
