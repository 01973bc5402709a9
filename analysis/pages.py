"""A page a published cell: what it was, its gates, its numbers, and the first problems' transcripts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.cells import Cell, nested
from analysis.errors import Refused
from analysis.estimates import number
from analysis.tables import markdown
from analysis.timings import entrants

SHOWN = 2  # problems
_NUMBERS = {  # key: unit
    "num_samples": "count", "num_errors": "count", "num_truncated": "count", "accuracy": "%", "accuracy_low": "%", "accuracy_high": "%",
    "kl": "nats", "prefilled_tokens": "count", "generated_tokens": "count", "latent_steps": "count", "wire_bytes": "bytes",
    "mean_bits": "bits", "peak_cache_bytes": "bytes", "new_tokens": "count", "num_blocks": "count",
}  # fmt: skip


def path(cell: Cell) -> str:
    """Where the page lies, from the root of the repository."""
    return f"results/cells/{cell.study}/{cell.hash}.md"


def page(cell: Cell, transcripts: pd.DataFrame) -> str:
    """The page; `transcripts` are samples of this cell with their texts."""
    meta = cell.meta
    lines = [f"# {cell.facts['folder']}", "", f"Study `{cell.study}`, cell `{cell.hash}`.", ""]
    if cell.problem:
        lines += [f"**Not used: {cell.problem}.**", ""]
    lines += ["```", _command(meta["command"]), "```", "", "| number | |", "|---|---:|"]
    lines += [f"| `{key}` | {number(cell.facts[key], unit)} |" for key, unit in _NUMBERS.items() if cell.facts.get(key) is not None]
    lines += ["", *(markdown(table, level=2) for table in entrants(cell)), "| identity | |", "|---|---|"]
    lines += [f"| {key} | `{value}` |" for key, value in sorted(meta["identity"].items())]
    lines += ["", "| gate | passed | measured | limit |", "|---|---|---:|---:|"]
    lines += [f"| {g['name']} | {'yes' if g['passed'] else '**no**'} | {g['measured']:.3g} | {g['limit']:.3g} |" for g in meta["gates"]]
    lines += ["", *(f"- {note}" for note in meta["notes"]), ""]
    if len(transcripts):
        for _, row in transcripts.sort_values("sample_id").head(SHOWN).iterrows():
            lines += _transcript(row)
        lines += [f"All problems: `analysis.load({cell.study!r}).samples`; the first, ways side by side: `python -m analysis html`.", ""]
    elif not cell.facts["num_samples"]:
        did = {"timed hand-offs": cell.ran("latency"), "scored the gold continuation": cell.ran("fidelity")}
        lines += [f"No agent spoke here: the run only {' and '.join(what for what, was in did.items() if was)}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _command(words: list[str]) -> str:
    """What runs the cell again: a study's own cell is a grid of one."""
    grid = ["-m"] if any(word.startswith("experiment=") for word in words) and "-m" not in words else []
    return f"python -m avpbench {shlex.join([*grid, *words[1:]])}"


def _transcript(row: Any) -> Iterator[str]:
    right = "right" if row["correct"] else "wrong"
    yield f"## {row['sample_id']}: {right}, answered `{row['prediction']}`, gold `{row['gold']}`"
    yield ""
    try:
        turns = nested(row["turns"], row["sample_id"])
    except Refused as error:
        turns = []
        yield f"**{error}**"
        yield ""
    for turn in turns:
        yield f"**{turn['role']}** ({turn['model']}; {turn['cached_tokens']} cached, {turn['prefilled_tokens']} prefilled)"
        yield ""
        yield "```text"
        yield str(turn["said"]).replace("```", "'''") or f"({turn['latent_steps']} latent steps)"
        yield "```"
        yield ""
