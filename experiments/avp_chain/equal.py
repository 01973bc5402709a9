"""How many tokens one agent may say at the computation of a chain that thinks: a weight is used once a token, read, said or thought.

    python experiments/avp_chain/equal.py results/runs/avp_chain AGENTS THINK_STEPS

Of the cells with the most scripted words, or the models' own. Attention over longer contexts is left out of this count and not of the
records' s_flop.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def summaries(folder: Path, chain: int, think_steps: int) -> dict[int, dict[str, Any]]:
    """The summaries of raw's cells of so many agents, by the tokens of their script (0: their own words)."""
    found = {}
    for run in sorted(p.parent for p in folder.glob("*/summary.json")):
        summary, config = json.loads((run / "summary.json").read_text()), json.loads((run / "meta.json").read_text())["config"]
        if (summary["strategy"], summary["chain"], summary["think_steps"]) == ("raw", chain, think_steps):
            found[config["script_tokens"] or 0] = summary
    return found


def main(folder: str, agents: str, think_steps: str) -> None:
    chains, alone = summaries(Path(folder), int(agents), int(think_steps)), summaries(Path(folder), 1, 0)
    shared = [words for words in chains if words <= 120 and words in alone]
    if not shared:
        sys.exit(f"{folder} holds no raw chain of {agents} after {think_steps} steps beside an agent alone; run the study's first parts")
    chain, one = (found[max(shared)] for found in (chains, alone))
    spent = sum(chain[key] for key in ("prefilled_tokens", "generated_tokens", "latent_steps"))
    print(round(spent - one["prefilled_tokens"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
