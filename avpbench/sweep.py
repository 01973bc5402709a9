"""What a multirun says and refuses before its first cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from avpbench.composer import Composer
from avpbench.config import CONF
from avpbench.errors import ConfigError
from avpbench.grid import Grid, Planned, grid
from avpbench.progress import say

_SHOWN = 5


def to_run(overrides: Sequence[Override], master: DictConfig) -> tuple[Planned, ...]:
    """The cells to launch, said and written down for `status`. Raises ConfigError where no cell can run, or where the grid
    would take longer than `max_hours`."""
    always = [word for word in master.hydra.overrides.hydra if word.startswith("hydra.searchpath=")]
    own = [Path(s.path) for s in master.hydra.runtime.config_sources if s.schema == "file" and Path(s.path) != CONF]
    found = grid(overrides, Composer(always, own))
    tell(found)
    if not found.cells:
        raise ConfigError(f"no cell of this grid can run: {found.impossible[0].why}")
    return found.cells


def tell(found: Grid) -> None:
    """What the grid came to, and what of it was left out."""
    parts = [f"grid: {_count(len(found.cells), 'cell')} to run"]
    if found.num_equal:
        parts.append(f"{found.num_equal} of {found.num_combinations} combinations are another's cell and run once")
    if found.left_out:
        parts.append(f"left out where the strategy has no such part: {', '.join(found.left_out)}")
    say("; ".join(parts))
    for line in impossible_lines(found):
        say(line)


def impossible_lines(found: Grid) -> list[str]:
    """The combinations that cannot run, by reason, the first few of each named."""
    reasons: dict[str, list[str]] = {}
    for one in found.impossible:
        reasons.setdefault(one.why, []).append(one.given or " ".join(one.words))
    lines = []
    for why, givens in reasons.items():
        more = f" and {len(givens) - _SHOWN} more" if len(givens) > _SHOWN else ""
        lines.append(f"skipped, impossible: {'; '.join(givens[:_SHOWN])}{more}: {why}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
