"""Codes of a Qwen2.5-1.5B-shaped bf16 cache: ours against quanto's, and mixed precision against uniform, in one run.

    pip install 'avpbench[quanto]' && python experiments/quantized/speed.py [tokens] [blocks]

Quantize: K/V to packed codes. Dequantize: packed codes into a cache that is already there. Export: what a sender does at a
hop, `snapkv` (score, measured errors, allocation, packing at several levels) against int4 for every token, at the bytes of the latter;
keeping its queries is timed beside it (a pass makes them in any case). The model has the shape's caches and narrow layers, since no pass through it is timed.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence

import torch
from optimum.quanto import MaxOptimizer, qint4, quantize_weight

from avpbench.build import build
from avpbench.codecs import coded, kernels
from avpbench.codecs.levels import Levels
from avpbench.codecs.registry import codec_named
from avpbench.config import compose
from avpbench.core import AgentState, Captured, KVCache, Queries, Turn
from avpbench.engine.capture import WINDOW, Heard, Recorder
from avpbench.engine.engine import Engine
from avpbench.engine.load import Source, load
from avpbench.meter import total

TOKENS = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
BLOCKS = int(sys.argv[2]) if len(sys.argv) > 2 else 15
GROUP, WINDOW_TOKENS = 64, 16
SHAPE = {
    "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 64, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 32768, "tie_word_embeddings": True,
}  # fmt: skip
CPU = torch.device("cpu")


def sender() -> tuple[Engine, AgentState, list[torch.Tensor]]:
    """Random K/V and window queries of the shape."""
    engine = load(Source("shape", load="dummy", shape=json.dumps(SHAPE)), CPU, torch.bfloat16)
    heads, dim, layers = engine.spec.num_kv_heads, engine.spec.head_dim, engine.spec.num_layers
    rows = [torch.randn(heads, TOKENS, dim).bfloat16() for _ in range(2 * layers)]
    cache = KVCache(tuple(rows[:layers]), tuple(rows[layers:]), torch.arange(TOKENS), TOKENS)
    queries = [torch.randn(1, 12, TOKENS, dim).bfloat16() for _ in range(layers)]
    window = Queries(torch.arange(TOKENS - WINDOW_TOKENS, TOKENS), tuple(q[0, :, -WINDOW_TOKENS:] for q in queries))
    ids = tuple(k % 900 for k in range(TOKENS))
    state = AgentState(engine.spec, ids, None, cache, Turn("planner", "", ""), "", None, Captured(window=window))
    return engine, state, queries


def eagerly(action: Callable[[], object]) -> Callable[[], object]:
    """The same without compiled kernels."""

    def run() -> object:
        least, kernels._LEAST = kernels._LEAST, 2**62
        try:
            return action()
        finally:
            kernels._LEAST = least

    return run


def quanto(rows: Sequence[torch.Tensor]) -> list[object]:
    """As transformers' QuantizedCache quantizes: groups of 64 along the head."""
    made = []
    for row in rows:
        flat = row.reshape(-1, GROUP)
        scale, shift = MaxOptimizer()(flat, qtype=qint4, axis=0, group_size=GROUP)
        made.append(quantize_weight(flat, qtype=qint4, axis=0, scale=scale, shift=shift, group_size=GROUP))
    return made


def main() -> None:
    torch.manual_seed(0)
    engine, state, queries = sender()
    rows = [*state.cache.keys_HTD, *state.cache.values_HTD]
    size = sum(t.numel() * t.element_size() for t in rows)
    table = Levels(codec_named({"name": "affine", "group": GROUP}), engine.spec)
    levels = torch.full((TOKENS,), 4, dtype=torch.uint8)
    codes, theirs = coded.encode(rows, levels, table), quanto(rows)
    out = torch.empty(len(rows), *rows[0].shape, dtype=torch.bfloat16)
    stored = {name.rsplit(".", 1)[1]: t for name, t in codes.items()}

    def dequantize() -> None:
        for k in range(len(rows)):
            table.codec.decode_into(out[k : k + 1], {name: t[k : k + 1] for name, t in stored.items()}, 4, "")

    def quanto_dequantize() -> None:
        for k, one in enumerate(theirs):
            out[k].view(-1, GROUP).copy_(one.dequantize())  # type: ignore[attr-defined]

    def captured() -> None:
        recorder = Recorder(frozenset({WINDOW}), [0], [TOKENS], [0], 1000)
        recorder.prefilled(Heard(queries))
        recorder.take(0, 0)

    exports = {}
    for name in ("uniform", "snapkv"):
        made = build(compose(["strategy=quantized", f"strategy/controller={name}", "strategy.budget_bits=level4"]).strategy)
        exports[name] = lambda made=made: made.export(state, engine, engine.spec)
    actions: dict[str, Callable[[], object]] = {
        "quantize": lambda: coded.encode(rows, levels, table),
        "quantize, eager": eagerly(lambda: coded.encode(rows, levels, table)),
        "quantize, quanto": lambda: quanto(rows),
        "dequantize": dequantize,
        "dequantize, eager": eagerly(dequantize),
        "dequantize, quanto": quanto_dequantize,
        "export, uniform": exports["uniform"],
        "export, snapkv": exports["snapkv"],
        "capture for snapkv": captured,
        "memcpy": lambda: out.clone(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for block in range(BLOCKS + 2):
        for name in random.Random(block).sample(list(actions), len(actions)):
            with total(CPU) as took:
                kept = actions[name]()
            del kept
            if block >= 2:
                seconds[name].append(took.seconds)
    median = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    told(median, size, sum(t.numel() * t.element_size() for t in codes.values()))


def told(median: dict[str, float], size: int, code_bytes: int) -> None:
    """Prints the medians, and what the cache's and the codes' bytes allow."""
    print(
        f"bf16 cache of {size / 2**20:.0f} MiB, {TOKENS} tokens, {torch.get_num_threads()} threads, median of {BLOCKS} blocks in random order"
    )
    for name, value in median.items():
        print(f"{name:22} {1000 * value:9.1f} ms  {size / value / 1e9:6.2f} GB/s")
    bound_s = median["memcpy"] * (size + code_bytes) / (2 * size)
    print(f"moving the cache and its codes once, at memcpy's rate: {1000 * bound_s:.1f} ms, which no codec can beat here")
    for name in ("quantize", "dequantize"):
        theirs = median[f"{name}, quanto"]
        print(f"{name}: {theirs / median[name]:.1f}x quanto; at that bound it would be {theirs / bound_s:.1f}x")
    mixed = median["export, snapkv"] + median["capture for snapkv"]
    print(f"capture and export: snapkv takes {mixed / median['export, uniform']:.2f} of uniform int4's time")


if __name__ == "__main__":
    main()
