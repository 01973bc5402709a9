"""python -m avpbench status [STUDY] [results=DIR] [--once] [--json]: how far a study is, from the store alone; live on a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.text import Text

from avpbench.checks import near
from avpbench.config import compose
from avpbench.errors import ConfigError
from avpbench.meter import now_s
from avpbench.progress import console, say
from avpbench.report import table, time_text
from avpbench.watch import CellStatus, Study

_EVERY_S = 2.0
_ROWS = 40


def main(words: Sequence[str]) -> int:
    """Prints the state of a study; without one, which studies the store holds. Raises ConfigError for one that it does not."""
    names = [word for word in words if "=" not in word and not word.startswith("-")]
    options = [word for word in words if word not in names]
    if len(names) > 1 or any(not word.startswith("results=") and word not in ("--once", "--json") for word in options):
        raise ConfigError(f"status wants [STUDY] [results=DIR] [--once] [--json], got {' '.join(words)}")
    root = Path(next((word.partition("=")[2] for word in options if word.startswith("results=")), None) or str(compose([]).results))
    studies = sorted(p.name for p in root.glob("*/") if not p.name.startswith("."))
    if not names:
        say(f"studies in {root}: {', '.join(studies) or 'none'}; python -m avpbench status STUDY")
        return 0
    if names[0] not in studies:
        hint = near(names[0], studies)
        raise ConfigError(f"no study {names[0]!r} in {root}{hint}; there are {', '.join(studies) or 'none'} (results=DIR looks elsewhere)")
    study = Study(root / names[0])
    if "--json" in words:
        print(json.dumps([asdict(cell) for cell in study.look()], indent=1))
    elif "--once" in words or not console.is_terminal:
        console.print(shown(study, study.look()))
    else:
        _live(study)
    return 0


def _live(study: Study) -> None:
    """Until nothing runs or is left to run, or somebody stops it."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            cells = study.look()
            live.update(shown(study, cells), refresh=True)
            if not any(cell.state in ("running", "partial", "to do") for cell in cells):
                return
            time.sleep(_EVERY_S)


def shown(study: Study, cells: Sequence[CellStatus]) -> Group:
    """The table and the totals. Cells that are done give way where there are too many for a screen."""
    chosen = sorted(cells, key=lambda cell: cell.state == "done")[:_ROWS] if len(cells) > _ROWS else cells
    header = ("cell", "state", "samples", "accuracy", "errors", "blocks")
    rows = [
        [
            cell.given or cell.folder,
            cell.state,
            f"{cell.samples}/{'?' if cell.samples_wanted is None else cell.samples_wanted}",
            "-" if cell.accuracy is None else f"{cell.accuracy:.1%}",
            str(cell.errors),
            f"{cell.blocks}/{cell.blocks_wanted}" if cell.blocks_wanted else "-",
        ]
        for cell in chosen
    ]
    counts: dict[str, int] = {}
    for cell in cells:
        counts[cell.state] = counts.get(cell.state, 0) + 1
    done = sum(cell.samples for cell in cells)
    wanted = None if any(cell.samples_wanted is None for cell in cells) else sum(cell.samples_wanted or 0 for cell in cells)
    lines = [f"{len(cells)} cells: {', '.join(f'{number} {state}' for state, number in sorted(counts.items()))}"]
    lines.append(f"{done} of {'?' if wanted is None else wanted} samples{_rate(study, done, wanted)}")
    hidden = [f"... {len(cells) - len(chosen)} more cells; --json names them all"] if len(chosen) < len(cells) else []
    notes = [f"{cell.given or cell.folder}: {cell.state}: {cell.note}" for cell in chosen if cell.note]
    return Group(table(f"study {study.folder.name}", header, rows), *(Text(one) for one in (*notes, *hidden, *lines)))


def _rate(study: Study, done: int, wanted: int | None) -> str:
    """Samples a second since this command looked first, over all jobs, and the time that the rest would take."""
    rate = study.rate(now_s(), done)
    if not rate:
        return ""
    return f", {rate:.2f}/s" + ("" if wanted is None else f", {time_text((wanted - done) / rate)} left")
