"""What coding costs at hop k of a long chain: new tokens only, so it is flat in k; coded anew at every hop, it grows.

    python experiments/quantized/hops.py [hops] [new tokens a hop] [blocks] [--shape tiny|qwen0.5b] | tee experiments/quantized/hops.txt

Qwen2.5-0.5B's caches in bfloat16 and narrow layers, since no pass through the model is timed: each agent gets the parcel, opens it, adds so many
random new tokens to the cache, and hands over. Every strategy makes every hop once a block, in random order; medians are
printed. `encode`: making the codes. `export`: the whole call, which also scores (snapkv's queries read every key), plans, and joins the codes
that came to the new ones (a copy of their bytes). Opening restores the whole cache, and so grows with k whatever is forwarded; it
is part of neither.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from typing import final

import torch

from avpbench import wire
from avpbench.build import build
from avpbench.codecs import coded
from avpbench.config import compose
from avpbench.core import AgentState, Captured, KVCache, Parcel, Prefix, Queries, Turn
from avpbench.engine.engine import Engine
from avpbench.engine.load import Source, load
from avpbench.meter import total
from avpbench.strategies.quantized import Quantized

CPU = torch.device("cpu")
SHAPES = {  # layers, attention heads, kv heads, head size, dtype
    "qwen0.5b": (24, 14, 2, 64, torch.bfloat16),
    "tiny": (4, 4, 2, 32, torch.float32),
}
WINDOW = 16
MADE = {
    "uniform": ["strategy/controller=uniform"],
    "snapkv": ["strategy/controller=snapkv"],
    "snapkv, coded anew": ["strategy/controller=snapkv", "strategy.requantize=true"],
}


@final
@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one hop."""

    encode_s: float
    export_s: float


def engine_of(shape: str) -> Engine:
    """Caches of the shape, layers next to nothing."""
    layers, heads, kv_heads, dim, dtype = SHAPES[shape]
    config = {
        "model_type": "qwen2", "hidden_size": heads * dim, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": 1024, "max_position_embeddings": 65536, "tie_word_embeddings": True,
    }  # fmt: skip
    return load(Source(shape, load="dummy", shape=json.dumps(config)), CPU, dtype)


def grown(engine: Engine, prefix: Prefix, received: Parcel | None, num_new: int, seed: int) -> AgentState:
    """What the next agent holds: the prefix and so many tokens of its own, with the queries of the last."""
    spec, generator = engine.spec, torch.Generator().manual_seed(seed)
    heads, dtype = engine.model.config.num_attention_heads, engine.model.dtype
    span = (prefix.cache.span if prefix.cache else 0) + num_new
    new = [torch.randn(spec.num_kv_heads, num_new, spec.head_dim, generator=generator).to(dtype) for _ in range(2 * spec.num_layers)]
    positions = torch.arange(span - num_new, span)
    if prefix.cache is not None:
        old = [*prefix.cache.keys_HTD, *prefix.cache.values_HTD]
        new = [torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)]
        positions = torch.cat([prefix.cache.positions_T, positions])
    cache = KVCache(tuple(new[: spec.num_layers]), tuple(new[spec.num_layers :]), positions, span)
    queries = tuple(torch.randn(heads, WINDOW, spec.head_dim, generator=generator).to(dtype) for _ in range(spec.num_layers))
    captured = Captured(window=Queries(torch.arange(span - WINDOW, span), queries))
    ids = tuple(k % 900 for k in range(span))
    return AgentState(spec, ids, None, cache, Turn("planner", "", ""), "", received, captured)


def walk(engine: Engine, made: Quantized, hops: int, num_new: int) -> list[Spent]:
    """One chain; seconds of every hop."""
    prefix, received, spent = Prefix(), None, []
    for hop in range(hops):
        state = grown(engine, prefix, received, num_new, hop)
        with total(CPU) as whole:
            parcel = made.export(state, engine, engine.spec)
        draft = made._draft(state, engine)
        levels_N = parcel.tensors["levels"][draft.request.cache.positions_T[draft.request.fresh_N]]
        with total(CPU) as took:
            coded.encode(draft.request.rows, levels_N, draft.request.table, draft.request.biases)
        spent.append(Spent(took.seconds, whole.seconds))
        received = wire.decode(wire.encode(parcel))
        prefix = made.inject(received, engine)
    return spent


def slope(medians: list[float]) -> float:
    """How much a hop costs more for each hop before it, as a share of the mean: least squares; 0 is flat."""
    ks = torch.arange(len(medians), dtype=torch.float64)
    ys = torch.tensor(medians, dtype=torch.float64)
    return float(((ks - ks.mean()) * (ys - ys.mean())).sum() / (ks - ks.mean()).square().sum() / ys.mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("hops", nargs="?", type=int, default=16)
    parser.add_argument("new_tokens", nargs="?", type=int, default=256)
    parser.add_argument("blocks", nargs="?", type=int, default=10)
    parser.add_argument("--shape", choices=SHAPES, default="qwen0.5b")
    given = parser.parse_args()
    engine = engine_of(given.shape)
    made = {name: build(compose(["strategy=quantized", *words, "strategy.budget_bits=5"]).strategy) for name, words in MADE.items()}
    runs: dict[str, list[list[Spent]]] = {name: [] for name in made}
    for block in range(given.blocks + 1):
        for name in random.Random(block).sample(list(made), len(made)):
            spent = walk(engine, made[name], given.hops, given.new_tokens)
            if block:  # the first one pays for kernels and memory
                runs[name].append(spent)
    print(
        f"{given.shape}: {given.hops} hops, {given.new_tokens} new tokens each, median of {given.blocks} blocks, {torch.get_num_threads()} threads"
    )
    for name, blocks in runs.items():
        for what in ("encode_s", "export_s"):
            medians = [sorted(getattr(one[hop], what) for one in blocks)[len(blocks) // 2] for hop in range(given.hops)]
            shown = " ".join(f"{1000 * m:.1f}" for m in medians)
            print(f"{name}, {what.removesuffix('_s')}, ms a hop: {shown}; {100 * slope(medians):+.1f}% of the mean a hop")


if __name__ == "__main__":
    main()
