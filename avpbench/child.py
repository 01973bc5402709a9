"""A cell in a process of its own: what kills it costs that cell only, and its memory peaks are its own. Light to import.

python -m avpbench.child CONFIG WORDS ANSWER EXPLAIN
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from avpbench import failures
from avpbench.config import identify
from avpbench.errors import LaunchFailed
from avpbench.failures import Failure
from avpbench.files import write_json
from avpbench.job import attempt

if TYPE_CHECKING:
    from avpbench.summary import Summary


def isolated(cfg: DictConfig, words: Sequence[str], explain: bool) -> Summary | Failure:
    """Runs the cell in a child and waits for it. A child that dies without an answer is a failure of its cell, written there.

    SIGINT, SIGTERM, SIGUSR2 and SIGHUP are passed on to the child, and once it has ended to whoever handled them here.
    """
    from avpbench.stop import relayed
    from avpbench.summary import Summary

    with TemporaryDirectory(prefix="avpbench-") as name:
        config, answer = Path(name) / "config.yaml", Path(name) / "answer.json"
        OmegaConf.save(cfg, config)
        command = [sys.executable, "-m", "avpbench.child", str(config), json.dumps(list(words)), str(answer), str(int(explain))]
        child = subprocess.Popen(command, process_group=0)  # a Ctrl-C reaches it through us, once
        with relayed(child.send_signal):
            code = child.wait()
        if answer.exists():
            row = json.loads(answer.read_text(encoding="utf-8"))
            return Failure.from_json(row["failure"]) if row["failure"] else Summary.from_row(row["summary"])
    death = Failure.of(LaunchFailed(_death(code)))
    failures.write(identify(cfg).within(cfg.results), death)
    return death


def _death(code: int) -> str:
    if code >= 0:
        return f"the cell's process ended with status {code} and no answer"
    why = "; the kernel does so when memory runs out: lower batch_size or context" if -code == signal.SIGKILL else ""
    return f"the cell's process was killed by {signal.Signals(-code).name}{why}"


def main(config: str, words: str, answer: str, explain: str) -> int:
    """The child's side. Returns the exit status."""
    from avpbench.stop import end_with_parent

    end_with_parent()
    cfg = OmegaConf.load(config)
    assert isinstance(cfg, DictConfig)
    cfg.isolate = None  # this is the process of its own
    came = attempt(cfg, json.loads(words), explain == "1")
    if isinstance(came, Failure):
        write_json(Path(answer), {"failure": asdict(came)})
        return 1
    write_json(Path(answer), {"failure": None, "summary": came.row()})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
