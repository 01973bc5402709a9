"""python -m avpbench verify DIR|STUDY [results=DIR]: grades and counts everything again; exit status 1 where something differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avpbench.config import compose
from avpbench.errors import ConfigError, RecordsError
from avpbench.progress import say


def main(words: Sequence[str]) -> int:
    """Checks every run in a folder: a run's own, a study's (by its name too), or the whole store's."""
    names = [word for word in words if not word.startswith("results=")]
    if len(names) != 1 or names[0].startswith("-") or "=" in names[0]:
        raise ConfigError(f"verify wants one folder or study [results=DIR], e.g. results/runs/STUDY; got {' '.join(words) or 'nothing'}")
    folder = Path(names[0])
    if not folder.is_dir():
        folder = Path(str(compose([word for word in words if word not in names]).results)) / names[0]
    if not folder.is_dir():
        raise RecordsError(f"there is no folder {names[0]}, nor {folder}; verify wants a run's, a study's or a store's")
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
