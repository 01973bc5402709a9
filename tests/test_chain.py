"""Chains: roles, counts, controls, and that raw and re-prefill are one and the same to the reader."""

from __future__ import annotations

import os
import re

import pytest
from conftest import TASK, cell, has, settings, strategies, told

from avpbench.cell import Cell, check_problems
from avpbench.chain import ChainResult, run_chain
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError
from avpbench.links.shared import Shared
from avpbench.strategies.raw import Raw
from avpbench.tasks.wordmath import Wordmath

STRATEGIES = strategies()


def go(one: Cell, indices: list[int]) -> list[ChainResult]:
    return run_chain(one.agents, [one.prompts(i) for i in indices], one.jobs(indices))


@pytest.mark.parametrize("chain", [1, 2, 3, 6])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_a_chain_of_any_length(tiny: Engine, strategy: str, chain: int) -> None:
    one = cell(tiny, strategy, chain=chain)
    done = go(one, [0, 1, 2])
    for result in done:
        assert len(result.turns) == chain
        assert len(result.hops) == chain - 1
        assert result.turns[-1].role == "solver"
        assert all(hop.strategy == one.agents[0].strategy.kind or hop.decision for hop in result.hops)
        assert all(hop.sender_pid == hop.receiver_pid == os.getpid() for hop in result.hops)
        assert all(hop.wire_bytes > hop.cache_bytes for hop in result.hops)
        assert all(hop.stages_s is None for hop in result.hops)
        assert all(turn.generated_tokens <= 12 for turn in result.turns)


@pytest.mark.parametrize("question", ["first", "all", "split"])
@pytest.mark.parametrize("think", [0, 2])
def test_raw_and_reprefill_say_the_same(engine: Engine, question: str, think: int) -> None:
    raw, again = (go(cell(engine, s, question=question, think_steps=think, chain=4), [0, 1, 2, 3, 4]) for s in ("raw", "reprefill"))
    for a, b in zip(raw, again, strict=True):
        assert a.new_ids == b.new_ids
        assert [t.said for t in a.turns] == [t.said for t in b.turns]
        assert [t.cached_tokens + t.prefilled_tokens for t in a.turns] == [t.cached_tokens + t.prefilled_tokens for t in b.turns]
        assert all(t.cached_tokens == 0 for t in b.turns)
        assert all(t.cached_tokens > 0 for t in a.turns[1:])


def test_a_scripted_chain_says_its_script(tiny: Engine) -> None:
    one = cell(tiny)
    script = [((5, 6, 7), (8, 9), (10, 11, 12, 13)) for _ in range(2)]
    done = run_chain(one.agents, [one.prompts(i) for i in (0, 1)], one.jobs([0, 1], script))
    assert [r.new_ids for r in done] == script


def test_one_sample_has_stages(tiny: Engine) -> None:
    hops = go(cell(tiny), [0])[0].hops
    for hop in hops:
        assert hop.stages_s is not None
        assert set(hop.stages_s) == {"export", "encode", "transfer", "decode", "inject", "prefill", "first_token", "generate"}
        assert all(seconds >= 0 for seconds in hop.stages_s.values())


def test_by_reference_no_bytes_cross(tiny: Engine) -> None:
    hops = go(cell(tiny).through(Raw(), Shared()), [0])[0].hops
    assert [hop.wire_bytes for hop in hops] == [0, 0]
    assert all(hop.cache_bytes > 0 for hop in hops)


def test_only_the_slot_differs_between_strategies(tiny: Engine) -> None:
    """The first agent is told the same; a later one, the same words after whatever came."""
    words = cell(tiny).prompts(5)[1].words
    first = set()
    names = [str(param.values[0]) for param in STRATEGIES if has("avp") or not param.marks]
    for name in names:
        one = cell(tiny, name)
        sender, receiver = one.agents[:2]
        out = sender.turn([None], [one.prompts(5)[0]], one.jobs([5])[0], tiny.spec)[0].out
        assert out is not None
        opened = [sender.receive(None, one.prompts(5)[0]), receiver.receive(out.message, one.prompts(5)[1])]
        first.add(opened[0].start.prompt_ids)
        asked = tiny.decode(opened[1].start.prompt_ids)
        before = asked.removesuffix(f"{words}\nassistant\n")
        assert re.fullmatch(r"\n?user\n(Context:\n.+\n\n)?", before, re.DOTALL), name
    assert len(first) == 1


def test_donors_shift_every_hop(tiny: Engine) -> None:
    one = cell(tiny, donor="other", question="all", chain=4)
    donors = TASK.donors(0)
    told_to = [p.words for p in one.prompts(7)]
    along = [7, donors[7], donors[donors[7]], donors[donors[donors[7]]]]
    for words, index in zip(reversed(told_to), along, strict=True):
        assert TASK.problem(index).question in words
    assert len(set(along)) == 4


def test_the_context_goes_where_the_question_goes(tiny: Engine) -> None:
    one = cell(tiny, context=300)
    assert 150 < one.context_tokens <= 300
    assert len(tiny.template.encode(one.context)) == one.context_tokens
    first, *rest = one.prompts(0)
    assert first.words.startswith(one.context)
    assert not any(one.context in p.words for p in rest)
    assert one.context in first.question


def test_what_does_not_fit_the_window_is_said(tiny: Engine) -> None:
    with pytest.raises(ConfigError, match="does not fit tiny"):
        cell(tiny, context=10_000)
    agent = cell(tiny).agents[0]
    prompt = told("word " * 10_000)
    with pytest.raises(ConfigError, match="do not fit tiny's window of 8192"):
        agent.act([agent.receive(None, prompt)], [prompt], cell(tiny).jobs([0])[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": 0},
        {"chain": 2.0},
        {"context": -1},
        {"question": "some"},
        {"donor": "none"},
        {"batch_size": 0},
        {"think_steps": -1},
        {"max_new_tokens": 0},
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        settings(**changes)


@pytest.mark.parametrize("limit", [0, -3, 201])
def test_a_limit_beyond_the_data_is_refused(limit: int) -> None:
    with pytest.raises(ConfigError, match="limit must be 1 to 200"):
        check_problems(settings(), Wordmath(200, "standard", 0), limit)


def test_donors_want_enough_problems() -> None:
    with pytest.raises(ConfigError, match="at least chain=3 problems"):
        check_problems(settings(donor="other"), Wordmath(2, "standard", 0), None)
