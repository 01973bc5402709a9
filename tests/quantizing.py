"""A quantized hand-off, made by hand from a story."""

from __future__ import annotations

from dataclasses import replace

import torch
from conftest import told
from torch import Tensor

from avpbench import wire
from avpbench.agents import Agent, Speak
from avpbench.build import build
from avpbench.codecs.levels import Levels
from avpbench.config import compose
from avpbench.controllers.controller import Controller, require_plan, scored
from avpbench.controllers.request import Request
from avpbench.core import AgentState, Parcel, Prefix
from avpbench.engine.batch import Start
from avpbench.engine.capture import CAPTURES, DEMAND, HIDDEN, PREDICTIONS, PROBES, WINDOW
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


def captured(engine: Engine) -> AgentState:
    """A sender with everything captured, its demand a made-up one."""
    agent = Agent(engine, Raw(), Direct())
    prompt = told(STORY, "planner")
    job = Speak((Speech(24, generator("x")),), Sampling())
    state, _ = agent.act([agent.receive(None, prompt)], [prompt], job, needs=CAPTURES)[0]
    demand = torch.rand(len(state.token_ids), generator=torch.Generator().manual_seed(0))
    return replace(state, captured=replace(state.captured, demand_S=demand))


def with_only(state: AgentState, needs: frozenset[str]) -> AgentState:
    """The state with no more captured than is named."""
    fields = {
        WINDOW: ("window",),
        PROBES: ("probes",),
        PREDICTIONS: ("entropy_T", "confidence_T"),
        HIDDEN: ("hidden_TE",),
        DEMAND: ("demand_S",),
    }
    gone = {name: None for need, names in fields.items() if need not in needs for name in names}
    return replace(state, captured=replace(state.captured, **gone))  # type: ignore[arg-type]


def asked(state: AgentState, codec: str = "affine", protect: int = 0) -> Request:
    """All of its cache to be coded, the last `protect` tokens protected."""
    table = Levels(build(compose(["strategy=quantized", f"strategy/codec={codec}"]).strategy.codec), state.spec)
    fresh = torch.arange(len(state.cache.positions_T))
    rows = [*state.cache.keys_HTD, *state.cache.values_HTD]
    return Request(state.token_ids, state.cache, state.captured, fresh, rows, table, fresh >= len(fresh) - protect, 1.5)


def plan(controller: Controller, request: Request, budget: int) -> Tensor:
    """A controller's levels, scores and plan checked as a hop checks them."""
    levels = controller.allocate(request, scored(controller, request), budget)
    require_plan(controller.label, levels, request, budget)
    return levels
