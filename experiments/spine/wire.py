"""Encode and decode a Qwen2.5-1.5B-shaped bf16 cache of 4,096 tokens: ours against the `avp` package, in one run.

pip install 'avpbench[avp]' && python experiments/spine/wire.py
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable

import torch
from avp.context import AVPContext
from transformers.cache_utils import DynamicCache

from avpbench import wire
from avpbench.core import CacheCard, ModelSpec, Parcel
from avpbench.meter import total

LAYERS, HEADS, TOKENS, HEAD_DIM = 28, 2, 4096, 128
BLOCKS = 15
CPU = torch.device("cpu")


def main() -> None:
    torch.manual_seed(0)
    halves = [[torch.randn(HEADS, TOKENS, HEAD_DIM).bfloat16() for _ in range(LAYERS)] for _ in range(2)]
    spec = ModelSpec("qwen1.5b", "0" * 16, "0" * 16, "qwen2", LAYERS, HEADS, HEAD_DIM, "{}", "bfloat16")
    names = [(f"{half}.{k}", t) for half, ts in zip(("keys", "values"), halves, strict=True) for k, t in enumerate(ts)]
    parcel = Parcel(CacheCard("raw", spec, {"span": TOKENS}), dict(names))
    cache = DynamicCache()
    for layer, (k, v) in enumerate(zip(*halves, strict=True)):
        cache.update(k[None], v[None], layer)
    context = AVPContext(
        past_key_values=cache, model_hash="0", num_steps=0, seq_len=TOKENS, model_family="qwen2", hidden_dim=1536, num_layers=LAYERS
    )
    size = sum(t.numel() * t.element_size() for _, t in names)
    ours, theirs = wire.encode(parcel), context.to_bytes()
    back, avp_back = wire.decode(ours), AVPContext.from_bytes(theirs)
    assert all(torch.equal(back.tensors[name], t) for name, t in names)
    assert torch.equal(avp_back.past_key_values.layers[3].keys[0], halves[0][3])
    actions: dict[str, Callable[[], object]] = {
        "ours encode": lambda: wire.encode(parcel),
        "avp encode": context.to_bytes,
        "ours decode": lambda: wire.decode(ours),
        "avp decode": lambda: AVPContext.from_bytes(theirs),
        "memcpy": lambda: bytearray(ours),
    }
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for block in range(BLOCKS + 2):
        for name in random.Random(block).sample(list(actions), len(actions)):
            gc.collect()
            with total(CPU) as took:
                kept = actions[name]()
            del kept
            if block >= 2:
                seconds[name].append(took.seconds)
    print(f"cache of {size / 2**20:.0f} MiB, {torch.get_num_threads()} threads, median of {BLOCKS} blocks in random order")
    median = {name: sorted(values)[BLOCKS // 2] for name, values in seconds.items()}
    for name, value in median.items():
        print(f"{name:12s} {1000 * value:8.1f} ms  {size / value / 1e9:6.2f} GB/s")
    for action in ("encode", "decode"):
        print(f"{action}: {median[f'avp {action}'] / median[f'ours {action}']:.1f}x the avp package")


if __name__ == "__main__":
    main()
