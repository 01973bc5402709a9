"""Cards that lie, in bulk: what does a receiver do with a hundred thousand mutated parcels?

    python experiments/quantized/fuzz.py [mutations]

Half are damaged in any byte, half are well-formed files with a right digest whose card or tensors lie. Every one must end
in a typed error or in a cache; what is allocated for a refused one is watched. A hundredth are of parcels of several MiB: there the
process must not rise by more than twice the file for one that is refused, or the script fails.
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
from fuzz import Allocated, damaged, endless, hostile, long_parcel, risen
from quantizing import chain, strategy

from avpbench import wire
from avpbench.config import compose
from avpbench.engine.engine import Engine
from avpbench.engine.load import load
from avpbench.errors import AvpBenchError
from avpbench.progress import progress
from avpbench.setup import sources_of

CPU = torch.device("cpu")
TOKENS = 8_000  # of a long parcel
LIMIT = 2.0  # times its file: what a refused parcel may take


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
    worst, file_bytes = max(
        (long(engine, codec, -(-mutations // 100 // len(codecs)), outcomes) for codec in codecs), key=lambda one: one[0]
    )
    print(
        f"{sum(outcomes.values())} mutated parcels over {len(codecs)} codecs: " + ", ".join(f"{k} {n}" for k, n in outcomes.most_common())
    )
    more = f", {large:.2f} times its file where it was a MiB or more" if large else ""
    print(
        f"slowest {1000 * slowest:.0f} ms; what a refused one took (Python's peak and all that torch made): at most {small / 1024:.0f} KiB{more};"
        f" a refused one of {file_bytes / 2**20:.1f} MiB made the process rise by at most {worst:.2f} times its file"
    )
    sys.exit(worst > LIMIT)


def long(engine: Engine, codec: str, number: int, outcomes: Counter[str]) -> tuple[float, int]:
    """The most that a refused parcel of several MiB took, times its file; and the file's bytes."""
    made = strategy(f"strategy/codec={codec}", "strategy/controller=uniform", "strategy.budget_bits=9.5")
    parcel = long_parcel(engine, made, TOKENS)
    good, rng, worst = bytes(wire.encode(parcel)), random.Random(codec), 0.0
    for k in range(number):
        bad = bytearray((damaged(good, rng), hostile(parcel, rng), wire.encode(endless(parcel, rng)))[k % 3])

        def opened(bad: bytearray = bad) -> None:
            nonlocal refused
            try:
                made.inject(wire.decode(bad), engine)
            except AvpBenchError:
                refused = True

        refused = False
        rose = risen(opened)
        outcomes["WireError" if refused else "opened: the change was harmless"] += 1
        worst = max(worst, rose / max(len(bad), 1) if refused and len(bad) > 2**20 else 0.0)
    return worst, len(good)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
