"""A quantized hand-off, made by hand from a story."""

from __future__ import annotations

import torch
from conftest import told

from avpbench import wire
from avpbench.agents import Agent, Speak
from avpbench.build import build
from avpbench.config import compose
from avpbench.core import AgentState, Parcel, Prefix
from avpbench.engine.batch import Start
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.links.direct import Direct
from avpbench.strategies.quantized import Quantized
from avpbench.strategies.raw import Raw

STORY = "Tom has 12 apples. Sue has 3 more apples than Tom. Ben has twice as many as Sue. How many do they have together?"


def strategy(*words: str) -> Quantized:
    built: Quantized = build(compose(["strategy=quantized", *words]).strategy)
    return built


def chain(engine: Engine, made: Quantized, hops: int, tokens: int = 16) -> list[tuple[AgentState, Parcel]]:
    """Every hop's sender and the parcel that it sent, through bytes."""
    agent, message, found = Agent(engine, made, Direct()), None, []
    for hop in range(hops):
        prompt = told(f"{STORY} ({hop})", "planner")
        job = Speak((Speech(tokens, generator("x")),), Sampling())
        state, _ = agent.act([agent.receive(message, prompt)], [prompt], job)[0]
        message = agent.send(state, engine.spec).message
        assert isinstance(message, memoryview)
        found.append((state, wire.decode(message)))
    return found


def restored(made: Quantized, parcel: Parcel, engine: Engine) -> Prefix:
    return made.inject(wire.decode(wire.encode(parcel)), engine)


def restored_raw(state: AgentState, engine: Engine) -> torch.Tensor:
    prefix = Raw().inject(Raw().export(state, engine, engine.spec), engine)
    return engine.prefill([Start(prefix, engine.template.following("And?"))]).logits_BV
