"""Time to first token from a resident cache against re-prefill, Qwen2.5-0.5B shape, 2,048 measured tokens, link=shared.

Beside it a bare forward pass over the same new tokens with the cache resident, and the curve over s.

    python experiments/spine/ttft.py [float32|bfloat16] [blocks]
"""

from __future__ import annotations

import random
import sys

import torch
from transformers.cache_utils import DynamicCache

from avpbench.agents import Agent
from avpbench.config import compose
from avpbench.core import Prompt
from avpbench.engine.load import load, resolve_device, resolve_dtype
from avpbench.links.shared import Shared
from avpbench.meter import total
from avpbench.phases.latency import first_token, sized
from avpbench.setup import source
from avpbench.strategies.raw import Raw
from avpbench.strategies.reprefill import Reprefill

CPU = resolve_device("cpu")
PREFIX = 2048


def main(dtype: str, blocks: int) -> None:
    cfg = compose(["model=qwen0.5b", "model.load=dummy"])
    engine = load(source(cfg.model), CPU, resolve_dtype(dtype, CPU))
    prompt = Prompt("solver", "You are the solver. " + "Tom has 3 apples. " * 40, "")
    raw, again = Agent(engine, Raw(), Shared()), Agent(engine, Reprefill(), Shared())
    seed = raw.engine.template.first(prompt.words)
    from avpbench.core import AgentState, Turn

    caches, _ = engine.prefill([_start(seed)])
    state = sized(raw, AgentState(engine.spec, seed, None, caches[0], Turn("solver", "", ""), "", None), PREFIX)
    messages = {a: a.send(state, engine.spec).message for a in (raw, again)}
    print(
        f"Qwen2.5-0.5B shape, random weights, {dtype}, {torch.get_num_threads()} threads, n = {PREFIX}, batch 1, link=shared, {blocks} blocks"
    )
    for s in (16, 1, 180):
        new = torch.tensor([(list(engine.template.following(prompt.words)) * s)[:s]])

        def bare() -> object:
            cache = DynamicCache()
            for layer, (k, v) in enumerate(zip(state.cache.keys_HTD, state.cache.values_HTD, strict=True)):
                cache.update(k[None], v[None], layer)
            return cache

        seconds: dict[str, list[float]] = {"reprefill": [], "raw": [], "bare": []}
        for block in range(blocks + 1):
            for name in random.Random(block).sample(list(seconds), 3):
                ready = bare() if name == "bare" else None
                with total(CPU) as took:
                    act(name, raw, again, messages, prompt, s, new, ready)
                if block:
                    seconds[name].append(took.seconds)
        logs = {k: sum(torch.tensor(v).log().tolist()) / len(v) for k, v in seconds.items()}
        ratio = {k: float(torch.tensor(logs[k] - logs["raw"]).exp()) for k in logs}
        times = ", ".join(f"{k} {1000 * sorted(v)[len(v) // 2]:.1f} ms" for k, v in seconds.items())
        print(
            f"s = {s:3d}: {times}; ttft_device_speedup of raw over reprefill {ratio['reprefill']:.1f}x; raw / bare forward {1 / ratio['bare']:.3f}"
        )


def act(
    name: str, raw: Agent, again: Agent, messages: dict[Agent, object], prompt: Prompt, s: int, new: torch.Tensor, cache: object
) -> None:
    if name == "bare":
        with torch.inference_mode():
            positions = torch.arange(PREFIX, PREFIX + s)[None]
            logits = raw.engine.model(input_ids=new, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            int(logits[0, -1].argmax())
        return
    agent = raw if name == "raw" else again
    first_token(agent, messages[agent], prompt, s)


def _start(ids: tuple[int, ...]) -> object:
    from avpbench.core import Prefix
    from avpbench.engine.batch import Start

    return Start(Prefix(), ids)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "float32", int(sys.argv[2]) if len(sys.argv) > 2 else 5)
