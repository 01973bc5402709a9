"""Fits the network of the controller `qkvshare` to the oracle's labels, on problems worded as no test is.

    python experiments/qkvshare_controller/train.py [problems] > experiments/qkvshare_controller/train.txt

Each token of a chain that hands over eight bits a value is a case: its features as the controller sees them at the hop, and how much the gold continuation
attends to it there. A fifth of the problems is held out; the rank correlations are of those. Writes avpbench/controllers/qkvshare.json.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
from pathlib import Path
from typing import final

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from avpbench.build import build
from avpbench.config import compose
from avpbench.controllers import qkvshare
from avpbench.controllers.controller import Controller
from avpbench.controllers.oracle import Oracle
from avpbench.controllers.request import Request
from avpbench.controllers.snapkv import SnapKV
from avpbench.engine.capture import DEMAND
from avpbench.phases import fidelity
from avpbench.progress import progress
from avpbench.setup import cell_of
from avpbench.strategies.quantized import Quantized

HIDDEN, STEPS, RATE = 16, 3000, 3e-3
SETUP = [
    "model=tiny", "task.level=controllers", "chain=4", "question=first", "strategy=uniform", "strategy.budget_bits=8", "strategy.recent=4", "strategy.key_bias=false",
    "quality=off", "latency=off", "fidelity=on",
]  # fmt: skip


@final
class Collector(Controller):
    """Spends as `uniform` does and writes down what `qkvshare` sees, what the oracle knows and what `snapkv` would say."""

    needs = frozenset(qkvshare.QKVShare.needs | {DEMAND})

    def __init__(self, spends: Controller) -> None:
        self._spends = spends
        self.cases: list[tuple[Tensor, Tensor, Tensor]] = []

    def score(self, request: Request) -> Tensor | None:
        demand_N = Oracle().score(request)
        self.cases.append((qkvshare.features(request), demand_N / demand_N.mean().clamp(min=1e-30), SnapKV(5).score(request).cpu()))
        return None

    def allocate(self, request: Request, score_N: Tensor | None, budget_bytes: int) -> Tensor:
        return self._spends.allocate(request, score_N, budget_bytes)


def collect(num_problems: int) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    """Every problem's cases, one entry a hop."""
    cfg = compose([*SETUP, f"limit={num_problems}"])
    collector = Collector(build(cfg.strategy.controller))
    hops: Quantized = build(cfg.strategy)
    hops.controller, hops.needs = collector, collector.needs
    cell = cell_of(cfg)
    found = []
    with progress("features", num_problems) as advance:
        for index in range(num_problems):
            fidelity.score(cell.through(hops), [index])
            found.append(collector.cases)
            collector.cases = []
            advance(1)
    return found


def fit(features_NF: Tensor, demand_N: Tensor) -> nn.Sequential:
    """The network whose exp is the expected demand: Poisson's loss, whose least is at the mean."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(features_NF.shape[1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))
    rule = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(rule, STEPS)
    mean_F, std_F = features_NF.mean(0), features_NF.std(0).clamp(min=1e-6)
    standard_NF = (features_NF - mean_F) / std_F
    for _ in range(STEPS):
        place = torch.randint(len(standard_NF), (8192,))
        loss = nn.functional.poisson_nll_loss(net(standard_NF[place])[:, 0], demand_N[place], log_input=True)
        rule.zero_grad()
        loss.backward()
        rule.step()
        schedule.step()
    with torch.no_grad():  # the first layer takes features as they are
        first = net[0]
        assert isinstance(first, nn.Linear)
        first.weight.div_(std_F)
        first.bias.sub_(first.weight @ mean_F)
    return net


def ranks(net: nn.Sequential, problems: list[list[tuple[Tensor, Tensor, Tensor]]]) -> tuple[float, float]:
    """The mean rank correlation with the oracle within a hop: of the network and of snapkv."""
    pairs = []
    with torch.no_grad():
        for features_NF, demand_N, rival_N in (case for problem in problems for case in problem):
            pairs.append([spearmanr(one, demand_N).statistic for one in (net(features_NF)[:, 0], rival_N)])
    ours, theirs = torch.tensor(pairs).mean(0).tolist()
    return ours, theirs


def main() -> None:
    num_problems = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with contextlib.redirect_stdout(sys.stderr):  # what the harness says of itself
        problems = collect(num_problems)
    random.Random(0).shuffle(problems)
    held, used = problems[: num_problems // 5], problems[num_problems // 5 :]
    features_NF, demand_N = (torch.cat([case[k] for problem in used for case in problem]) for k in (0, 1))
    net = fit(features_NF, demand_N)
    ours, theirs = ranks(net, held)
    print(f"{len(used)} problems, {len(demand_N)} tokens; {len(held)} held out")
    print(f"rank correlation with the oracle, held out: qkvshare {ours:.3f}, snapkv {theirs:.3f}")
    layers = [{"weight": one.weight.tolist(), "bias": one.bias.tolist()} for one in net if isinstance(one, nn.Linear)]
    told = {"trained_by": "experiments/qkvshare_controller/train.py", "config": SETUP, "problems": len(used), "features": qkvshare.FEATURES}
    target = Path(qkvshare.__file__).with_name(qkvshare.WEIGHTS)
    target.write_text(json.dumps(told | {"layers": layers}, indent=1) + "\n")
    print(f"wrote {qkvshare.WEIGHTS}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
