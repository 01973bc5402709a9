"""hydra/sweeper=avpbench: Hydra's basic sweeper over the cells that can run, each once, cells of one model together.

Annotations are no strings here: Hydra runs this file before it is in sys.modules, where dataclasses would look them up.
"""

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override


@dataclass
class SweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.avpbench_sweeper.sweeper.AvpBenchSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="avpbench", node=SweeperConf, provider="avpbench")


class AvpBenchSweeper(BasicSweeper):
    """The launcher, whichever it is, gets lists of overrides as from the basic sweeper."""

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The overrides of every cell that is to run, in batches. Raises AvpBenchError where none can."""
        from avpbench.sweep import to_run

        assert self.config is not None
        cells = [list(cell.words) for cell in to_run(overrides, self.config)]
        return [list(chunk) for chunk in self.split_overrides_to_chunks(cells, max_batch_size)]

    def validate_batch_is_legal(self, batch: Any) -> None:
        """Every cell was composed when the grid was."""
