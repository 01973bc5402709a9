"""How long `plan` takes for 10,000 cells, and what it imports; an empty store, then one that holds them all as done.

python experiments/sweeps/plan_speed.py      on an idle machine
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time

GRID = ("strategy=raw,text,blank,adaptive", "strategy/controller=uniform,snapkv,recency", "chain=2,4", "seed=range(834)")
HEAVY = ("torch", "transformers", "wandb", "pandas", "scipy", "datasets")
CODE = (
    "import sys\nfrom avpbench.__main__ import main\nstatus = main(sys.argv[1:])\n"
    f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\nsys.exit(status)"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as store:
        began = time.perf_counter()
        command = [sys.executable, "-c", CODE, "plan", "-m", *GRID, f"results={store}", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took = time.perf_counter() - began
    plan = json.loads(done.stdout)
    print(f"{plan['num_combinations']} combinations, {len(plan['cells'])} cells: {took:.2f} s (under 5 wanted)")
    print(f"heavy imports: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
