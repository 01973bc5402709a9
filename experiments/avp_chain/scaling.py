"""What the records of avp_chain say of tokens, speed, memory and chain length: the tables of experiments/avp_chain/README.md.

python experiments/avp_chain/scaling.py results/runs/avp_chain
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Key = tuple[str, int, int, int]  # strategy, chain, script tokens, latent steps


@dataclass
class Cell:
    """Means over a cell's samples, the first left out of the times."""

    prompts: list[float] = field(default_factory=list)  # prefilled tokens by turn
    prefilled: float = 0.0
    forward: float = 0.0
    held_bytes: float = 0.0
    seconds: float = float("nan")
    peak_bytes: float | None = None


def read(folder: Path) -> dict[Key, Cell]:
    cells = {}
    for run in sorted(p.parent for p in folder.glob("*/summary.json")):
        config = json.loads((run / "meta.json").read_text())["config"]
        summary = json.loads((run / "summary.json").read_text())
        rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        rows = [row for row in rows if row["turns"]]
        cells[summary["strategy"], config["chain"], config["script_tokens"], summary["think_steps"]] = cell(rows, summary)
    return cells


def cell(rows: list[dict[str, Any]], summary: dict[str, Any]) -> Cell:
    by_turn = [[turn["prefilled_tokens"] for turn in row["turns"]] for row in rows]
    forward = [sum(t["prefilled_tokens"] + t["generated_tokens"] + t["latent_steps"] for t in row["turns"]) for row in rows]
    times = [row["end_to_end_s"] for row in rows[1:] if row["end_to_end_s"] is not None]
    held = [max((h["cache_bytes"] or h["wire_bytes"] for h in row["hops"]), default=0) for row in rows]
    return Cell(
        prompts=np.mean(by_turn, axis=0).tolist(), prefilled=float(np.mean([sum(turns) for turns in by_turn])), forward=float(np.mean(forward)),
        held_bytes=float(np.mean(held)), seconds=float(np.mean(times)) if times else float("nan"),
        peak_bytes=summary["peak_device_bytes_above_weights"],
    )  # fmt: skip


def savings(cells: dict[Key, Cell]) -> None:
    print(
        "tokens and time against the text chain\n  N    m think  s_prompt s_forward   text/raw,think = mode x hand-off   (a) K/V : text   prompts by turn: text | raw"
    )
    for (strategy, chain, said, think), raw in sorted(cells.items(), key=lambda item: item[0][1:]):
        text, spoken = cells.get(("text", chain, said, 0)), cells.get(("raw", chain, said, 0))
        if strategy != "raw" or text is None or spoken is None:
            continue
        hand_off, mode = text.seconds / spoken.seconds, spoken.seconds / raw.seconds
        turns = " | ".join(" ".join(f"{tokens:.0f}" for tokens in one.prompts[:6]) for one in (text, raw))
        memory = f"{raw.held_bytes / text.held_bytes:8.0f}x" if text.held_bytes else "-"
        if raw.peak_bytes and text.peak_bytes:
            memory += f" (b) {raw.peak_bytes / text.peak_bytes:.1f}x"
        print(
            f"{chain:3d} {said:4d} {think:5d} {1 - raw.prefilled / text.prefilled:9.1%} {1 - raw.forward / text.forward:9.1%}"
            f"   {hand_off * mode:6.2f}x = {mode:5.2f} x {hand_off:5.2f} {memory:>24}   {turns}"
        )


def lines(cells: dict[Key, Cell]) -> None:
    """A line over N <= 4, held against what was measured at 16. A chain of one is one cell for every strategy: it has no hop."""
    print("\nend_to_end_s as a line in N, fitted at N <= 4, against what was measured at 16")
    for strategy, said, think in sorted({(s, m, t) for s, _, m, t in cells if s != "single"}):
        found = {n: one.seconds for (s, n, m, t), one in cells.items() if (s, m, t) == (strategy, said, think)}
        alone = cells.get(("single", 1, said, 0))
        fit = {n: v for n, v in ({1: alone.seconds} if alone else {} | found).items() if n <= 4} | {
            n: v for n, v in found.items() if n <= 4
        }
        if len(fit) < 3 or 16 not in found:
            continue
        slope, start = np.polyfit(list(fit), list(fit.values()), 1)
        predicted = start + 16 * slope
        print(
            f"{strategy:10s} m {said:4d} think {think:3d}: {predicted:8.2f} s predicted, {found[16]:8.2f} s measured, error {predicted / found[16] - 1:+.1%}"
        )


if __name__ == "__main__":
    found = read(Path(sys.argv[1] if len(sys.argv) > 1 else "results/runs/avp_chain"))
    print(f"{len(found)} cells")
    savings(found)
    lines(found)
