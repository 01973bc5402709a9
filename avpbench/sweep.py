"""What a multirun says and refuses before its first cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from avpbench import grids
from avpbench.composer import Composer
from avpbench.config import CONF
from avpbench.errors import ConfigError
from avpbench.grid import Grid, Planned, grid
from avpbench.planning import outlook
from avpbench.progress import say

_SHOWN = 5


def to_run(overrides: Sequence[Override], master: DictConfig) -> tuple[Planned, ...]:
    """The cells to launch, said and written down for `status`. Raises ConfigError where no cell can run, or where the grid
    would take longer than `max_hours`."""
    always = [word for word in master.hydra.overrides.hydra if word.startswith("hydra.searchpath=")]
    own = [Path(s.path) for s in master.hydra.runtime.config_sources if s.schema == "file" and Path(s.path) != CONF]
    composer = Composer(always, own)
    found = grid(overrides, composer)
    tell(found)
    if not found.cells:
        raise ConfigError(f"no cell of this grid can run: {found.impossible[0].why}")
    if any(cell.values["max_hours"] is not None for cell in found.cells):
        outlook(found, composer).check()
    grids.write(found.cells)
    return found.cells


def opened(words: Sequence[str]) -> list[str]:
    """The words of a multirun, every part of a strategy as a sweep of one: Hydra would compose it with the default strategy first,
    which may have no such part."""
    found = []
    for word in words:
        key, separator, value = word.partition("=")
        part = separator and key.startswith(("strategy/", "strategy.")) and not re.match(r"\w+\(", value)
        found.append(f"{key}=choice({value})" if part else word)
    return found


def tell(found: Grid) -> None:
    """What the grid came to, and what of it was left out."""
    say(summary_line(found))
    for line in impossible_lines((one.given, one.why) for one in found.impossible):
        say(line)


def summary_line(found: Grid) -> str:
    """How many cells, and what became of the other combinations."""
    parts = [f"grid: {_count(len(found.cells), 'cell')} to run"]
    if found.num_equal:
        parts.append(f"{found.num_equal} of {found.num_combinations} combinations are another's cell and run once")
    if found.left_out:
        parts.append(f"left out where the strategy has no such part: {', '.join(found.left_out)}")
    return "; ".join(parts)


def impossible_lines(impossible: Iterable[tuple[str, str]]) -> list[str]:
    """What cannot run (what was given, why) by reason, the first few of each named."""
    reasons: dict[str, list[str]] = {}
    for given, why in impossible:
        reasons.setdefault(why, []).append(given or "all of it")
    lines = []
    for why, givens in reasons.items():
        more = f" and {len(givens) - _SHOWN} more" if len(givens) > _SHOWN else ""
        lines.append(f"skipped, impossible: {'; '.join(givens[:_SHOWN])}{more}: {why}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
