"""python -m avpbench verify DIR: grades every completion again, recomputes every aggregate, and says what differs (exit status 1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avpbench.errors import ConfigError, RecordsError
from avpbench.progress import say


def main(words: Sequence[str]) -> int:
    """Checks every run in a folder: a run's own, a study's, or the whole store's."""
    if len(words) != 1 or words[0].startswith("-"):
        raise ConfigError(f"verify wants one folder, e.g. results/runs/STUDY; got {' '.join(words) or 'nothing'}")
    folder = Path(words[0])
    if not folder.is_dir():
        raise RecordsError(f"there is no folder {folder}; verify wants a run's, a study's or a store's")
    from avpbench.store import run_folders

    folders = list(run_folders(folder))
    if not folders:
        raise RecordsError(f"{folder} holds no run: no meta.json and no records in it or below it")
    from avpbench.audit import audit

    wrong = 0
    for one in folders:
        found = audit(one)
        wrong += bool(found.differences)
        say(f"{'DIFFERS' if found.differences else 'ok'}  {one}  ({found.num_samples} samples)")
        for line in found.differences:
            say(f"  differs: {line}")
        for line in found.notes:
            say(f"  note: {line}")
    say(f"{len(folders)} runs, {wrong} of them differ from what their records and data give")
    return 1 if wrong else 0
