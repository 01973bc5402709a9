"""How many tokens one agent may say at the computation of a chain that thinks.

    python experiments/avp_chain/equal.py results/runs/avp_chain AGENTS THINK_STEPS

Of the cells with the most scripted words, or the models' own. Every token, read, said or thought, goes through the layers; what is said or
thought through the head, too. Attention over longer contexts is left out of this count and not of the records' s_flop.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def summaries(folder: Path, chain: int, think_steps: int) -> dict[int, dict[str, Any]]:
    """The summaries of raw's cells of so many agents, with their count of operations, by the tokens of their script (0: their own words)."""
    found = {}
    for run in sorted(p.parent for p in folder.glob("*/summary.json")):
        summary, meta = (json.loads((run / name).read_text()) for name in ("summary.json", "meta.json"))
        if summary["strategy"] in ("raw", "single") and (summary["chain"], summary["think_steps"]) == (chain, think_steps):
            found[meta["config"]["script_tokens"] or 0] = summary | meta["roofline"]
    return found


def main(folder: str, agents: str, think_steps: str) -> None:
    chains, alone = summaries(Path(folder), int(agents), int(think_steps)), summaries(Path(folder), 1, 0)
    shared = [words for words in chains if words <= 120 and words in alone]
    if not shared:
        sys.exit(f"{folder} holds no raw chain of {agents} after {think_steps} steps beside an agent alone; run the study's first parts")
    chain, one = (found[max(shared)] for found in (chains, alone))
    chosen = chain["generated_tokens"] + chain["latent_steps"]
    spent = chain["token_flop"] * (chain["prefilled_tokens"] + chosen) + chain["head_flop"] * chosen
    print(round((spent - one["token_flop"] * one["prefilled_tokens"]) / (one["token_flop"] + one["head_flop"])))


if __name__ == "__main__":
    main(*sys.argv[1:])
