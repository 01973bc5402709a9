"""python -m analysis [check | publish STUDY | compare RUN RUN ... | report RUN | html [RUN ...]]"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from analysis.declared import EXPERIMENTS
from analysis.errors import NoRecords
from analysis.publish import PUBLISHED, publish
from avpbench.errors import AvpBenchError

HTML = Path("results/html/index.html")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables, statistics and figures from records.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("build", help="write BENCHMARKS.md, results/figures, tables and cells from results/published (the default)")
    commands.add_parser("check", help="exit 1 where any of them is stale")
    one = commands.add_parser("publish", help="pack a study's finished runs into results/published")
    one.add_argument("study")
    one.add_argument("--runs", type=Path, default=Path("results/runs"))
    one.add_argument("--out", type=Path, default=PUBLISHED)
    one.add_argument("--some", action="store_true", help="leave out runs that are not finished")
    one = commands.add_parser("compare", help="runs side by side, each against the first, by problem")
    one.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    one.add_argument("--csv", action="store_true")
    one = commands.add_parser("report", help="one run with intervals, limits and gates")
    one.add_argument("run", type=Path, metavar="RUN")
    one = commands.add_parser("html", help="a page with tables, figures and transcripts, of these runs or of all that is published")
    one.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    one.add_argument("--out", type=Path, default=HTML)
    return parser


def _require_repository() -> None:
    """Raises NoRecords where there is nothing that evidence is made from."""
    if not PUBLISHED.is_dir() and not EXPERIMENTS.is_dir():
        raise NoRecords(f"no {PUBLISHED} and no {EXPERIMENTS} in {Path.cwd()}; run it in the root of the repository")


def _build(check: bool) -> int:
    from analysis.evidence import gather, outputs, stale, too_large, write

    _require_repository()
    evidence = gather()
    files = outputs(evidence)
    root = Path()
    if check:
        old = [f"stale: {name}" for name in stale(root, files)]
        found = [*old, *(["run: python -m analysis"] if old else []), *too_large()]
        print("\n".join(found) or "the evidence is up to date")
        return 1 if found else 0
    changed = write(root, files)
    print("\n".join(changed) if changed else "nothing has changed")
    return 0


def _compare(runs: list[Path], csv: bool) -> int:
    from analysis.runs import compare
    from analysis.tables import as_csv, markdown

    table = compare(runs)
    print(as_csv(table) if csv else markdown(table))
    return 0


def _report(run: Path) -> int:
    from analysis.runs import report
    from analysis.tables import markdown

    print("\n".join(markdown(table) for table in report(run)))
    return 0


def _html(runs: list[Path], out: Path) -> int:
    from analysis.html import write

    if not runs:
        _require_repository()
    print(f"{write(runs, out)}: {out.stat().st_size / 1e6:.1f} MB")
    return 0


def main(words: list[str]) -> int:
    """Runs a command; returns the exit status."""
    given = _parser().parse_args(words)
    try:
        if given.command == "publish":
            out = publish(given.study, given.runs, given.out, given.some)
            print(f"{out}: {sum(p.stat().st_size for p in out.iterdir()) / 1e6:.1f} MB")
            return 0
        if given.command == "compare":
            return _compare(given.runs, given.csv)
        if given.command == "report":
            return _report(given.run)
        if given.command == "html":
            return _html(given.runs, given.out)
        return _build(given.command == "check")
    except AvpBenchError as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # | head
    sys.exit(main(sys.argv[1:]))
