"""Encode and decode one bf16 cache at sizes from 1 MiB to 1 GiB, `raw` against `avp_raw`, in one run; then one beyond 4 GiB.

One thread for both. The ratio of processor time is also right on a machine that does other things. Beyond 4 GiB takes 14 GB of memory.

    pip install 'avpbench[avp]' && python experiments/avp_chain/wire_sizes.py [LARGEST_MIB] [beyond]
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable

import torch
from avp.context import AVPContext

from avpbench import wire
from avpbench.core import CacheCard, KVCache, ModelSpec, Parcel
from avpbench.engine.cache import as_dynamic
from avpbench.meter import total

LAYERS, HEADS, HEAD_DIM = 28, 2, 128  # Qwen2.5-1.5B: 28 KiB a token in bf16
BLOCKS, WARMUP = 9, 2
IN_A_ROW_MIB = 64  # a small cache is encoded and decoded several times in a row; the first call, on cold caches, is shown apart
CPU = torch.device("cpu")
SPEC = ModelSpec("qwen1.5b", "0" * 16, "0" * 16, "qwen2", LAYERS, HEADS, HEAD_DIM, "{}", "bfloat16")


def cache_of(tokens: int, layers_apart: int | None = None) -> KVCache:
    """Any bits at all. Layers begin so many values apart in one storage (None: each behind the other), so that few make a large cache
    of little memory."""
    size = HEADS * tokens * HEAD_DIM
    step = layers_apart or size
    bits = torch.randint(-(2**15), 2**15, (size + 2 * LAYERS * step,), dtype=torch.int16).view(torch.bfloat16)
    rows = [bits[k * step : k * step + size].view(HEADS, tokens, HEAD_DIM) for k in range(2 * LAYERS)]
    return KVCache(tuple(rows[:LAYERS]), tuple(rows[LAYERS:]), torch.arange(tokens), tokens)


def parcel_of(cache: KVCache) -> Parcel:
    halves = {"keys": cache.keys_HTD, "values": cache.values_HTD}
    rows = {f"{half}.{layer}": t for half, ts in halves.items() for layer, t in enumerate(ts)}
    return Parcel(CacheCard("raw", SPEC, {"span": cache.span}), rows | {"positions": cache.positions_T.to(torch.int32)})


def context_of(cache: KVCache, views: bool = False) -> AVPContext:
    """`views`: without a copy of the cache, as the pairs of tensors that AVP reads too."""
    pairs = tuple((k[None], v[None]) for k, v in zip(cache.keys_HTD, cache.values_HTD, strict=True))
    return AVPContext(
        past_key_values=pairs if views else as_dynamic(cache), model_hash="0", num_steps=0, seq_len=cache.span, num_layers=LAYERS
    )


def same(back: Parcel, cache: KVCache) -> bool:
    wanted = parcel_of(cache).tensors
    return all(torch.equal(back.tensors[name].view(torch.uint8), t.view(torch.uint8)) for name, t in wanted.items())


def compare(mib: int) -> None:
    cache = cache_of(max(1, mib * 2**20 // (4 * LAYERS * HEADS * HEAD_DIM)))
    parcel, context = parcel_of(cache), context_of(cache)
    ours, theirs = wire.encode(parcel), context.to_bytes()
    assert same(wire.decode(ours), cache)
    assert torch.equal(
        AVPContext.from_bytes(theirs).past_key_values.layers[0].keys[0].view(torch.int16), cache.keys_HTD[0].view(torch.int16)
    )
    actions: dict[str, Callable[[], object]] = {
        "raw encode": lambda: wire.encode(parcel),
        "raw decode": lambda: wire.decode(ours),
        "avp_raw encode": context.to_bytes,
        "avp_raw decode": lambda: AVPContext.from_bytes(theirs),
    }
    calls = max(1, IN_A_ROW_MIB // mib)
    spent: dict[str, list[tuple[float, float, float]]] = {name: [] for name in actions}
    for block in range(BLOCKS + WARMUP):
        for name in random.Random(block).sample(list(actions), len(actions)):
            gc.collect()
            began_s = time.process_time()
            actions[name]()
            first_s = time.process_time() - began_s
            began_s = time.process_time()
            with total(CPU) as took:
                for _ in range(calls):
                    actions[name]()
            again_s = time.process_time() - began_s
            if block >= WARMUP:
                spent[name].append((took.seconds / calls, again_s / calls, first_s))
    shown = f"{cache.num_bytes / 2**20:8.1f} MiB"
    for clock, what in enumerate(("wall", "processor", "processor, first call")):
        ms = {name: 1000 * sorted(row[clock] for row in rows)[BLOCKS // 2] for name, rows in spent.items()}
        ratio = (ms["avp_raw encode"] + ms["avp_raw decode"]) / (ms["raw encode"] + ms["raw decode"])
        print(f"{shown}  " + "  ".join(f"{name} {value:9.2f}" for name, value in ms.items()) + f"  {ratio:5.1f}x  ms, {what}", flush=True)
        shown = " " * len(shown)


def beyond() -> None:
    """A cache of more than 4 GiB, through ours bit for bit and through theirs as far as it gets."""
    cache = cache_of(4 * 2**30 // (4 * LAYERS * HEADS * HEAD_DIM) + 100, layers_apart=1)
    print(
        f"{cache.num_bytes / 2**30:.3f} GiB: raw {'same bits' if same(wire.decode(wire.encode(parcel_of(cache))), cache) else 'DIFFERENT BITS'}"
    )
    gc.collect()
    try:
        context_of(cache, views=True).to_bytes()
        print("avp_raw: encoded")
    except Exception as error:
        print(f"avp_raw: {type(error).__name__}: {error}")


def main() -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is not looked through again before each measurement
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    print(f"one thread, medians of {BLOCKS} blocks in random order; raw's digest is over every byte, AVP's over the payload")
    for mib in (1, 4, 16, 64, 112, 256, 1024):
        if mib <= largest:
            compare(mib)
    if largest >= 1024 or "beyond" in sys.argv:
        beyond()


if __name__ == "__main__":
    main()
