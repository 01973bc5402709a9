"""How long `plan` takes for 10,000 cells, and what it imports: over an empty store, then over one that holds half of them as done.

python experiments/sweeps/plan_speed.py      on an idle machine
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from avpbench.config import compose, plain
from avpbench.meta import here

GRID = ("strategy=raw,text,blank,adaptive", "strategy/controller=uniform,snapkv,recency", "chain=2,4", "seed=range(834)", "limit=1")
FAST = ("latency=off", "fidelity=off")
HEAVY = ("torch", "transformers", "wandb", "pandas", "scipy", "datasets")
CODE = (
    "import sys\nfrom avpbench.__main__ import main\nstatus = main(sys.argv[1:])\n"
    f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\nsys.exit(status)"
)


def plan(store: str) -> dict[str, Any]:
    """The plan of the grid over this store; prints what it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", CODE, "plan", "-m", *GRID, *FAST, f"results={store}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{found['num_combinations']} combinations, {len(found['cells'])} cells, {found['counts']['done']} done: ", end="")
    print(f"{took:.2f} s, {processor:.2f} s of processor (under 5 wanted); heavy imports: {done.stderr.strip()}")
    return found


def finish(cell: dict[str, Any], config: dict[str, Any]) -> None:
    """A folder as a run of this cell leaves it, as far as a plan looks."""
    folder = Path(cell["folder"])
    folder.mkdir(parents=True)
    meta = {"cell": folder.name.rpartition("-")[2], "identity": here() | {"device": "cpu-x"}, "num_samples": 1}
    spent = {"ready": {"seconds": 1.0, "count": 1}, "quality": {"seconds": 1.0, "count": 1}}
    (folder / "meta.json").write_text(json.dumps(meta | {"spent": spent, "earlier": [], "config": config}))
    (folder / "samples.jsonl").write_text(json.dumps({"sample_id": "a", "correct": True, "status": "ok"}) + "\n")
    (folder / "summary.json").write_text("{}")


def main() -> None:
    with tempfile.TemporaryDirectory() as store:
        cells = plan(store)["cells"]
        config = plain(compose([f"results={store}"]))
        for half in (cells[::2], cells[1::2]):
            for cell in half:
                finish(cell, config)
            plan(store)


if __name__ == "__main__":
    main()
