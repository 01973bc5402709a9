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
from typing import final

from torch import Tensor

from analysis.cells import cells_of
from analysis.estimates import number, point_of, spoken
from analysis.quality import average, contrast
from analysis.studies import load_runs
from avpbench import run
from avpbench.build import build
from avpbench.codecs.levels import NATIVE
from avpbench.config import compose
from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request
from avpbench.phases import fidelity
from avpbench.setup import cell_of
from avpbench.strategies.quantized import Quantized

STUDY, RESULTS = "controller_ablation_dev", Path("results/runs")
DEV = ["task=wordmath", "task.split=dev", "chain=4", "latency=off", "fidelity=on", "tracker=console"]
BUDGETS = ["2", "2.5", "3", "level2", "4", "4.5", "level4"]
SHOWN = 32  # problems whose levels are counted


@final
class Tally(Controller):
    """Spends as another does and counts the levels that it gave; of the plans made for one hop the last counts."""

    def __init__(self, spends: Controller) -> None:
        self._spends = spends
        self._plans: dict[int, tuple[Request, Tensor]] = {}

    def allocate(self, request: Request, score_N: Tensor | None, budget_bytes: int) -> Tensor:
        levels_N = self._spends.allocate(request, score_N, budget_bytes)
        self._plans[id(request)] = request, levels_N
        return levels_N

    def shares(self) -> str:
        """The share of tokens at each level, as words."""
        counts = Counter(level for _, levels_N in self._plans.values() for level in levels_N.tolist())
        names = {0: "dropped", NATIVE: "native"}
        return ", ".join(f"{names.get(k, f'{k} bits')} {100 * counts[k] / counts.total():.1f}%" for k in sorted(counts))


def levels(words: list[str]) -> str:
    """Which levels `uniform` mixes at this budget."""
    cfg = compose([*words, f"limit={SHOWN}"])
    made: Quantized = build(cfg.strategy)
    made.controller = tally = Tally(made.controller)
    fidelity.score(cell_of(cfg).through(made), range(SHOWN))
    return tally.shares()


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
