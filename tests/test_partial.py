"""A part of the prefix: nothing at 0, raw at 1, and between them what a model that read so much holds."""

from __future__ import annotations

import pytest
import torch
from conftest import cell, told
from test_strategies import state_of, through_bytes

from avpbench.build import build
from avpbench.chain import run_chain
from avpbench.config import strategy_config
from avpbench.core import LATENT, Prefix
from avpbench.engine.batch import Start
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError
from avpbench.strategies.partial import Partial
from avpbench.strategies.raw import Raw


def completions(engine: Engine, strategy: object, think: int = 0) -> list[str]:
    one = cell(engine, think_steps=think).through(strategy)  # type: ignore[arg-type]
    indices = [0, 1, 2]
    return [r.completion for r in run_chain(one.agents, [one.prompts(i) for i in indices], one.jobs(indices))]


@pytest.mark.parametrize("think", [0, 3])
def test_its_ends_are_blank_and_raw(engine: Engine, think: int) -> None:
    assert completions(engine, Partial(1.0), think) == completions(engine, Raw(), think)
    assert completions(engine, Partial(0.0), think) == completions(engine, build(strategy_config("blank")), think)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_a_part_is_what_reading_that_much_leaves(engine: Engine, fraction: float) -> None:
    state = state_of(engine, Raw())
    prefix = through_bytes(Partial(fraction), state, engine)
    count = round(fraction * len(state.token_ids))
    assert prefix.token_ids == state.token_ids[:count]
    read = engine.prefill([Start(Prefix(), state.token_ids[:count])]).caches[0]
    assert prefix.cache is not None
    assert prefix.cache.span == count
    for ours, theirs in zip((*prefix.cache.keys_HTD, *prefix.cache.values_HTD), (*read.keys_HTD, *read.values_HTD), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_latent_inputs_are_cut_with_their_places(engine: Engine) -> None:
    one = cell(engine, think_steps=4, chain=2)
    job = one.jobs([0])[0]
    state, _ = one.agents[0].act([one.agents[0].receive(None, told("x"))], [told("x")], job)[0]
    prefix = through_bytes(Partial((len(state.token_ids) - 2) / len(state.token_ids)), state, engine)
    assert prefix.token_ids.count(LATENT) == 2
    assert prefix.soft_NE is not None
    assert state.soft_NE is not None
    assert torch.equal(prefix.soft_NE, state.soft_NE[:2])


@pytest.mark.parametrize("fraction", [-0.1, 1.1, "half", True])
def test_a_fraction_out_of_range_is_refused(fraction: object) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.fraction must be a number from 0 to 1"):
        Partial(fraction)  # type: ignore[arg-type]
