"""python -m avpbench [run] KEY=VALUE ... | show KEY=VALUE ...

Light to import: torch and its like are loaded only once a run begins.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from avpbench.summary import Summary

from avpbench.errors import AvpBenchError, cause

COMMANDS = ("run", "show")


def _run(words: list[str]) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from avpbench.config import CONF
    from avpbench.hints import check, is_sweep

    check(words, COMMANDS)
    sweep = is_sweep(words)
    done: list[Summary] = []
    failed: list[tuple[str, AvpBenchError]] = []

    def job(cfg: DictConfig) -> None:
        """One cell, as Hydra runs it. What a user can mend is kept for the end: the other cells of a multirun go on."""
        given = " ".join(HydraConfig.get().overrides.task)
        print(f"\navpbench: {given}" if sweep else "avpbench: starting", flush=True)  # before torch is imported
        try:
            from avpbench.runner import execute

            done.append(execute(cfg, explain=not sweep))
        except AvpBenchError as error:
            failed.append((given, error))

    sys.argv = [sys.argv[0], *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us, and we print the user's ones without a traceback
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    finally:
        if len(done) + len(failed) > 1:
            from avpbench.report import show_comparison

            show_comparison(done, [f"{given}: {cause(error)}" for given, error in failed])
    if failed and len(done) + len(failed) == 1:
        raise failed[0][1]
    return 1 if failed else 0


def _show(words: list[str]) -> int:
    from avpbench.hints import check

    check(words)
    print("avpbench: rendering", flush=True)  # before the tokenizer's library is imported
    from avpbench.show import show

    show(words)
    return 0


def main(words: list[str]) -> int:
    """Runs a command; returns the exit status."""
    if any(word in ("-h", "--help") for word in words):
        from avpbench.usage import usage

        print(usage())
        return 0
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    command, rest = (words[0], words[1:]) if words and words[0] in COMMANDS else ("run", words)
    try:
        return {"run": _run, "show": _show}[command](rest)
    except KeyboardInterrupt:
        return 130
    except (AvpBenchError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"\navpbench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
