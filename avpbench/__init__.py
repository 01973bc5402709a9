"""How should language-model agents hand context to each other? Every form, on the same problems, process and clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avpbench.summary import Summary

__version__ = "0.1.0"


def run(*overrides: str) -> Summary:
    """Runs one cell and returns its summary: run("strategy=text", "chain=2", "limit=20").quality.accuracy.

    The same overrides, defaults and records as on the command line. Raises AvpBenchError for what cannot run.
    """
    from avpbench.config import compose
    from avpbench.hints import check
    from avpbench.runner import execute

    check(overrides)
    return execute(compose(overrides), overrides)
