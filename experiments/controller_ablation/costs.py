"""CPU seconds that a problem costs, so that the preset's size can be chosen: its answer, and its KL under each controller, over 1, 3 and 7 hops.

    python experiments/controller_ablation/costs.py [problems] | tee experiments/controller_ablation/costs.txt

Speaking the raw transcript is paid once for all cells of a process, and is a line of its own.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from avpbench.config import compose
from avpbench.phases import fidelity, quality, replay
from avpbench.records import Journal, SampleRecord
from avpbench.setup import cell_of

SETUP = ("quality=off", "latency=off", "fidelity=on", "strategy=adaptive", "strategy.budget_bits=level2")
BATCH = 32
CONTROLLERS = ("uniform", "snapkv", "zipcache", "qkvshare", "oracle", "random")


@contextlib.contextmanager
def cpu(what: str, num: int) -> Iterator[None]:
    """Prints what the body costs a problem. Processor time, which meter.py does not measure: other work disturbs it least."""
    begun = time.process_time()
    yield
    print(f"{what:36} {(time.process_time() - begun) / num:.3f} CPU s a problem", flush=True)


def main() -> None:
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    blocks = [range(begin, min(begin + BATCH, num)) for begin in range(0, num, BATCH)]
    torch.set_num_threads(1)
    for chain in (2, 4, 8):
        for place, name in enumerate(CONTROLLERS):
            words = [f"chain={chain}", f"limit={num}", *SETUP]
            with contextlib.redirect_stdout(sys.stderr):
                cell = cell_of(compose([*words, f"strategy/controller={name}"]))
            if not place:
                with cpu(f"{chain - 1} hops, speaking", num):
                    for block in blocks:
                        replay.raw_transcript(cell, block)
                with cpu(f"{chain - 1} hops, answer, {name}", num), tempfile.TemporaryDirectory() as folder:
                    list(quality.run(cell, Journal(Path(folder) / "samples.jsonl", SampleRecord), lambda: None))
            with cpu(f"{chain - 1} hops, KL, {name}", num):
                for block in blocks:
                    fidelity.score(cell, block)


if __name__ == "__main__":
    main()
