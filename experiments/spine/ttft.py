"""Time to first token from a resident cache against re-prefill, Qwen2.5-0.5B shape, 2,048 measured tokens, link=shared.

Beside it a bare forward pass over the same new tokens with the cache resident, and the curve over s.

    python experiments/spine/ttft.py [float32|bfloat16] [blocks] [prefix tokens]
"""

from __future__ import annotations

import random
import sys

import torch
from transformers.cache_utils import DynamicCache

from avpbench.agents import Agent
from avpbench.config import compose
from avpbench.core import AgentState, KVCache, Prefix, Prompt, Turn
from avpbench.engine.batch import Start
from avpbench.engine.engine import Engine
from avpbench.engine.load import load, resolve_device, resolve_dtype
from avpbench.links.shared import Shared
from avpbench.meter import total
from avpbench.phases.hop import cut, first_token
from avpbench.setup import sources_of
from avpbench.strategies.raw import Raw
from avpbench.strategies.reprefill import Reprefill

CPU = resolve_device("cpu")
PROMPT = Prompt("solver", "You are the solver. " + "Tom has 3 apples. " * 40, "")


def resident(engine: Engine, num_tokens: int) -> AgentState:
    """A sender that holds exactly so many tokens."""
    ids = (engine.template.first(PROMPT.words) * num_tokens)[:num_tokens]
    caches = engine.prefill([Start(Prefix(), ids)]).caches
    return AgentState(engine.spec, ids, None, caches[0], Turn("planner", "", ""), "", None)


def as_dynamic(cache: KVCache) -> DynamicCache:
    """The same keys and values as transformers' own cache."""
    copied = DynamicCache()
    for layer, (k, v) in enumerate(zip(cache.keys_HTD, cache.values_HTD, strict=True)):
        copied.update(k[None], v[None], layer)
    return copied


@torch.inference_mode()
def bare(engine: Engine, new: torch.Tensor, cache: DynamicCache, prefix: int) -> int:
    """One forward pass over the new tokens and the first token's id, with nothing of ours around it."""
    positions = torch.arange(prefix, prefix + new.shape[1])[None]
    output = engine.model(input_ids=new, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return int(output.logits[0, -1].argmax())


def measure(engine: Engine, state: AgentState, s: int, blocks: int) -> dict[str, list[float]]:
    """Seconds of each way, in random order within each block, the first block not counted."""
    agents = {"raw": Agent(engine, Raw(), Shared()), "reprefill": Agent(engine, Reprefill(), Shared())}
    messages = {name: agent.send(state, engine.spec).message for name, agent in agents.items()}
    told = cut(PROMPT, agents["raw"], s)
    new = torch.tensor([(engine.template.following(PROMPT.words) * s)[:s]])
    seconds: dict[str, list[float]] = {"reprefill": [], "raw": [], "bare": []}
    for block in range(blocks + 1):
        for name in random.Random(block).sample(list(seconds), 3):
            cache = as_dynamic(state.cache) if name == "bare" else None
            with total(CPU) as took:
                if cache is not None:
                    bare(engine, new, cache, len(state.token_ids))
                else:
                    first_token(agents[name], messages[name], told, s)
            del cache  # else the next way finds no freed memory, and pays for fresh pages that this one did not
            if block:
                seconds[name].append(took.seconds)
    return seconds


def main(dtype: str, blocks: int, prefix: int) -> None:
    engine = load(sources_of(compose(["model=qwen0.5b", "model.load=dummy"]), 1)[0], CPU, resolve_dtype(dtype, CPU))
    state = resident(engine, prefix)
    print(
        f"Qwen2.5-0.5B shape, random weights, {dtype}, {torch.get_num_threads()} threads, n = {prefix}, batch 1, link=shared, {blocks} blocks"
    )
    for s in (16, 1, 180):
        seconds = measure(engine, state, s, blocks)
        logs = {name: torch.tensor(values).log().mean() for name, values in seconds.items()}
        times = ", ".join(f"{name} {1000 * sorted(values)[len(values) // 2]:.1f} ms" for name, values in seconds.items())
        speedup, over = float((logs["reprefill"] - logs["raw"]).exp()), float((logs["raw"] - logs["bare"]).exp())
        print(f"s = {s:3d}: {times}; ttft_device_speedup of raw over reprefill {speedup:.1f}x; raw / bare forward {over:.3f}", flush=True)


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    main(arguments.get(1, "float32"), int(arguments.get(2, 5)), int(arguments.get(3, 2048)))
