"""Problems per second at batch 32 against batch 1, and the share of time spent outside the model's forward passes.

python experiments/spine/throughput.py
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from avpbench.config import compose
from avpbench.engine.engine import Engine
from avpbench.engine.load import load, resolve_device, resolve_dtype
from avpbench.meter import total
from avpbench.phases import quality
from avpbench.records import Journal, SampleRecord
from avpbench.setup import cell_of, sources_of

CPU = resolve_device("cpu")


@contextmanager
def forward_seconds(engine: Engine) -> Iterator[list[float]]:
    """Seconds inside the model's forward."""
    forward, spent = engine.model.forward, [0.0]

    def timed(*args: object, **kwargs: object) -> object:
        with total(CPU) as took:
            output = forward(*args, **kwargs)
        spent[0] += took.seconds
        return output

    engine.model.forward = timed
    try:
        yield spent
    finally:
        engine.model.forward = forward


def measure(words: list[str], problems: int) -> tuple[float, float]:
    """Problems per second of the quality phase, and the share of it outside forward."""
    cfg = compose([*words, f"limit={problems}", "device=cpu", "dtype=float32"])
    engine = load(sources_of(cfg, 1)[0], CPU, resolve_dtype("float32", CPU))
    cell = cell_of(cfg)
    with TemporaryDirectory() as folder, forward_seconds(engine) as forward, total(CPU) as took:
        for _ in quality.run(cell, Journal(Path(folder) / "samples.jsonl", SampleRecord), lambda: None):
            pass
    return problems / took.seconds, 1 - forward[0] / took.seconds


def main() -> None:
    measure(["batch_size=32"], 32)
    rates: dict[int, list[float]] = {1: [], 32: []}
    shares = []
    for block in range(3):
        for batch in random.Random(block).sample([1, 32], 2):
            rate, share = measure([f"batch_size={batch}"], 24 if batch == 1 else 192)
            rates[batch].append(rate)
            if batch == 32:
                shares.append(share)
    for batch, values in rates.items():
        print(f"tiny, chain of 4, raw, batch {batch:2d}: {', '.join(f'{v:.2f}' for v in values)} problems/s")
    print(f"batch 32 against batch 1: {sum(rates[32]) / sum(rates[1]):.1f}x")
    print(f"outside the model's forward passes at batch 32: {', '.join(f'{s:.1%}' for s in shares)}")
    words = ["model=qwen0.5b", "model.load=dummy", "task=wordmath", "batch_size=4", "max_agent_tokens=24", "max_new_tokens=24"]
    print(f"dummy Qwen2.5-0.5B shape, float32, batch 4: {measure(words, 4)[1]:.2%} outside forward")


if __name__ == "__main__":
    main()
