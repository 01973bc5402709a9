"""python -m avpbench [run] KEY=VALUE ... | show | plan | list | status | verify | sync

Light to import: torch and its like are loaded only once a run begins.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

from avpbench.errors import AvpBenchError

COMMANDS = ("run", "show", "plan", "list", "status", "verify", "sync")


def _run(words: list[str]) -> int:
    from avpbench.hints import check, is_sweep
    from avpbench.launch import check_launcher, sweep

    check(words, COMMANDS)
    check_launcher(words)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us, and we print the user's ones without a traceback
    return sweep(words) if is_sweep(words) else _one(words)


def _one(words: list[str]) -> int:
    from hydra.core.hydra_config import HydraConfig

    from avpbench.failures import Failure
    from avpbench.job import attempt
    from avpbench.launch import through_hydra

    failed: list[Failure] = []

    def cell(cfg: DictConfig) -> None:
        print("avpbench: starting", flush=True)  # before torch is imported
        if isinstance(came := attempt(cfg, HydraConfig.get().overrides.task, explain=True), Failure):
            failed.append(came)

    through_hydra(cell, words)
    for failure in failed:
        print(f"\navpbench: {failure.message}", file=sys.stderr)
    return len(failed)


def main(words: list[str]) -> int:
    """Runs a command; returns the exit status."""
    if any(word in ("-h", "--help") for word in words):
        from avpbench.usage import usage

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # | head
        print(usage())
        return 0
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    command, rest = (words[0], words[1:]) if words and words[0] in COMMANDS else ("run", words)
    try:
        if command == "run":
            return _run(rest)
        status: int = importlib.import_module(f"avpbench.commands.{command}").main(rest)
        return status
    except KeyboardInterrupt:
        return 130
    except (AvpBenchError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"\navpbench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
