"""How widely should weights spread over ranks? KL at the primary budget for several spreads, on dev problems.

    python experiments/controller_ablation/spread.py [problems] [sigma ...] | tee experiments/controller_ablation/spread.txt

The rule: the least geometric mean over the rankings (`uniform` is none). The oracle alone would choose 1.5, where weak rankings lose much.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from avpbench.config import compose
from avpbench.phases import fidelity
from avpbench.setup import cell_of

CONTROLLERS = ("uniform", "oracle", "expected_attention", "snapkv", "zipcache", "keydiff", "key_norm")
DEV = ("task.split=dev", "chain=4", "quality=off", "latency=off", "fidelity=on", "strategy=adaptive", "strategy.budget_bits=level2")
SIGMAS = ("0.5", "1", "1.5", "2")
BATCH = 32


def kl(name: str, sigma: str, num: int) -> float:
    """A controller's mean KL over so many dev problems."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        cell = cell_of(compose([*DEV, f"limit={num}", f"strategy/controller={name}", f"strategy.spread={sigma}"]))
        blocks = [range(begin, min(begin + BATCH, num)) for begin in range(0, num, BATCH)]
        return statistics.fmean(record.kl for block in blocks for record in fidelity.score(cell, block))


def main() -> None:
    num, sigmas = int(sys.argv[1]) if len(sys.argv) > 1 else 200, sys.argv[2:] or SIGMAS
    print(f"KL on {num} dev problems, chain of 4, budget level2")
    print("sigma  " + "  ".join(f"{name:>18}" for name in (*CONTROLLERS, "geometric mean")), flush=True)
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        for sigma in sigmas:
            lost = list(pool.map(kl, CONTROLLERS, [sigma] * len(CONTROLLERS), [num] * len(CONTROLLERS)))
            print(f"{sigma:>5}  " + "  ".join(f"{value:18.5f}" for value in (*lost, statistics.geometric_mean(lost[1:]))), flush=True)


if __name__ == "__main__":
    main()
