"""python -m analysis publish STUDY [runs=DIR] [out=DIR] [some=true]"""

from __future__ import annotations

import sys
from pathlib import Path

from analysis.publish import PUBLISHED, Unfinished, publish

_USAGE = "python -m analysis publish STUDY [runs=results/runs] [out=results/published] [some=true]"


def main(words: list[str]) -> int:
    """Runs a command; returns the exit status."""
    names = [word for word in words if "=" not in word]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    if len(names) != 2 or names[0] != "publish" or not options.keys() <= {"runs", "out", "some"}:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        out = publish(
            names[1], Path(options.get("runs", "results/runs")), Path(options.get("out", PUBLISHED)), options.get("some") == "true"
        )
    except Unfinished as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 1
    size = sum(p.stat().st_size for p in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
