"""Cards that lie, in bulk: what does a receiver do with a hundred thousand mutated parcels?

    python experiments/quantized/fuzz.py [mutations]

Half are damaged in any byte, half are well-formed files with a right digest whose card or tensors lie. Every one must end
in a typed error or in a cache; what is allocated for a refused one is watched.
"""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from conftest import installed_codecs
from fuzz import Allocated, damaged, hostile
from quantizing import chain, strategy

from avpbench import wire
from avpbench.config import compose
from avpbench.engine.load import load
from avpbench.errors import AvpBenchError
from avpbench.meter import memory, reset_peak
from avpbench.progress import progress
from avpbench.setup import sources_of

CPU = torch.device("cpu")


def main(mutations: int) -> None:
    engine = load(sources_of(compose([]), 1)[0], CPU, torch.float32)
    outcomes: Counter[str] = Counter()
    slowest, codecs = 0.0, installed_codecs()
    small, large = 0, 0.0  # what refused ones took: bytes, and times the file where that is a MiB or more
    with progress("mutations", mutations) as advance:
        for codec in codecs:
            made = strategy(f"strategy/codec={codec}", "strategy.budget_bits=9.5")
            _, parcel = chain(engine, made, 1, 24)[0]
            good, rng = bytes(wire.encode(parcel)), random.Random(codec)
            for number in range(-(-mutations // len(codecs))):
                bad = damaged(good, rng) if number % 2 else hostile(parcel, rng)
                watched = number % 20 < 2 and number >= 100  # it costs much time; the first ones import what is imported once
                buffer, torchs = bytearray(bad), Allocated()
                if watched:
                    tracemalloc.start()
                began = time.perf_counter()
                try:
                    with torchs if watched else nullcontext():
                        made.inject(wire.decode(buffer), engine)
                    outcomes["opened: the change was harmless"] += 1
                except AvpBenchError as error:
                    outcomes[type(error).__name__] += 1
                    taken = tracemalloc.get_traced_memory()[1] + torchs.num_bytes if watched else 0
                    small, large = (max(small, taken), large) if taken < 2**20 else (small, max(large, taken / max(len(bad), 1)))
                slowest = max(slowest, 0 if watched else time.perf_counter() - began)
                tracemalloc.stop()
                advance(1)
    reset_peak(CPU)
    print(
        f"{sum(outcomes.values())} mutated parcels over {len(codecs)} codecs: " + ", ".join(f"{k} {n}" for k, n in outcomes.most_common())
    )
    more = f", {large:.2f} times its file where it was a MiB or more" if large else ""
    print(
        f"slowest {1000 * slowest:.0f} ms; what a refused one took (Python's peak and all that torch made): at most {small / 1024:.0f} KiB{more};"
        f" peak of the process {memory(CPU).peak_rss_bytes / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
