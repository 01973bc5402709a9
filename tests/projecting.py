"""A projected hand-off, made by hand from a story."""

from __future__ import annotations

from typing import Any

import torch
from conftest import TASK, settings, told

from avpbench import wire
from avpbench.agents import Agent, Speak, Think
from avpbench.build import build
from avpbench.cell import Cell
from avpbench.chain import run_chain
from avpbench.config import compose
from avpbench.core import LATENT, AgentState, Parcel
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.links.direct import Direct
from avpbench.strategies.strategy import Strategy

STORY = "Tom has 12 apples. Sue has 3 more apples than Tom. How many do they have?"


def strategy(*words: str, name: str = "projected") -> Any:
    return build(compose([f"strategy={name}", *words]).strategy)


def speech(tokens: int = 8, rows: int = 1) -> Speak:
    return Speak(tuple(Speech(tokens, generator("x")) for _ in range(rows)), Sampling())


def state_of(engine: Engine, made: Strategy, job: Speak | Think | None = None, words: str = STORY) -> AgentState:
    agent = Agent(engine, made, Direct())
    return agent.act([agent.receive(None, told(words, "planner"))], [told(words, "planner")], job or speech())[0][0]


def exported(engine: Engine, made: Strategy, receiver: Engine, job: Speak | Think | None = None) -> Parcel:
    return wire.decode(wire.encode(made.export(state_of(engine, made, job), engine, receiver.spec)))


def from_scratch(engine: Engine, state: AgentState) -> torch.Tensor:
    """The last hidden states of the whole sequence, by the model itself."""
    ids = torch.tensor(state.token_ids[: state.cache.span])
    embeds = engine.model.get_input_embeddings()(ids.clamp(min=0))
    if state.soft_NE is not None:
        embeds[ids == LATENT] = state.soft_NE[: int((ids == LATENT).sum())]
    with torch.inference_mode():
        return engine.model.base_model(inputs_embeds=embeds[None]).last_hidden_state[0]


def chain_of(engines: list[Engine], made: Strategy, **changes: object) -> Any:
    one = Cell.build(settings(chain=len(engines), **changes), TASK, engines, made, Direct(), 2)
    return run_chain(one.agents, [one.prompts(0)], one.jobs([0]))[0]
