"""python -m avpbench show KEY=VALUE ...: one problem's prompts and the chain, rendered. Nothing is run, no weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from avpbench.hints import check
from avpbench.progress import say


def main(words: Sequence[str]) -> int:
    """Prints them. Raises ConfigError and NotFound."""
    check(words)
    say("rendering")  # before the tokenizer's library is imported
    from avpbench.show import show

    show(words)
    return 0
