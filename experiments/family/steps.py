"""How often each member is right, by the computed steps of a problem: alone, `standard` and `broad`, from the published records.

python experiments/family/steps.py > experiments/family/steps.txt
"""

from __future__ import annotations

from analysis.cells import Cell, cells_of, usable
from analysis.studies import load
from avpbench.aggregate import wilson
from avpbench.tasks.wordmath import story

LEVELS = ("standard", "broad")


def by_steps(cell: Cell) -> dict[int, tuple[int, int]]:
    """(right, all) of the problems with so many computed steps."""
    found: dict[int, tuple[int, int]] = {}
    config = cell.meta["config"]["task"]
    for name, right in zip(cell.samples.sample_id, cell.samples.correct, strict=True):
        steps = story(config["seed"], config["split"], int(name.rpartition("-")[2]), config["level"]).num_steps
        before = found.get(steps, (0, 0))
        found[steps] = before[0] + bool(right), before[1] + 1
    return found


def main() -> None:
    cells = [cell for cell in cells_of(load("family", text=False)) if cell.facts["chain"] == 1 and cell.facts["level"] in LEVELS]
    usable(cells)
    print("accuracy alone by computed steps, 95% interval (Wilson), n\n")
    for cell in sorted(cells, key=lambda c: (LEVELS.index(c.facts["level"]), str(c.facts["model"]), int(c.facts["variant"]))):
        print(f"{cell.facts['model']} {cell.facts['variant']}, {cell.facts['level']} ({cell.hash})")
        for steps, (right, count) in sorted(by_steps(cell).items()):
            low, high = wilson(right, count)
            print(f"  {steps} steps  {right / count:6.1%} [{low:.1%}, {high:.1%}]  n = {count}")


if __name__ == "__main__":
    main()
