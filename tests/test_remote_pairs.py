"""link=remote between two models: what crosses, and what is said, is what link=direct gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import stranger

from avpbench.cell import Cell
from avpbench.chain import ChainResult, run_chain
from avpbench.config import compose
from avpbench.links.direct import Direct
from avpbench.setup import cell_of, plan

WORDS = (
    "receiver=tiny", "chain=3", "limit=2", "max_agent_tokens=9", "max_new_tokens=12", "device=cpu", "dtype=float32", "threads=1",
    "strategy=auto", "strategy.gate=off", "latency.against=[projected,random_direction,text]",
)  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cell, list[str]]]:
    """A Llama with a vocabulary of its own, tiny, and the first again: neighbours live in two processes."""
    folder = tmp_path_factory.mktemp("stranger")
    stranger(folder)
    words = [*WORDS, f"model.path={folder}", "model.name=stranger"]
    cell = cell_of(compose([*words, "link=remote"]))
    assert cell.crew is not None
    yield cell, words
    cell.crew.close()


def said(result: ChainResult) -> object:
    hops = [(h.strategy, h.decision, h.wire_bytes, h.cache_bytes) for h in result.hops]
    return result.completion, result.new_ids, result.turns, hops


def test_models_of_two_vocabularies_say_over_sockets_what_they_say_in_one_process(pair: tuple[Cell, list[str]]) -> None:
    """A process that had not met the other's tokenizer would hand over words."""
    cell, words = pair
    assert cell.crew is not None
    wanted = plan(compose(words))
    for strategy in (wanted.strategy, *wanted.rivals):
        prompts, jobs = [cell.prompts(0)], cell.jobs([0])
        here = run_chain(cell.through(strategy, Direct()).agents, prompts, jobs)[0]
        there = run_chain(cell.crew.players(strategy), prompts, cell.jobs([0]))[0]
        assert said(here) == said(there), strategy.label
        if strategy is wanted.strategy:
            assert [hop.strategy for hop in there.hops] == ["projected"] * 2
        assert len({pid for hop in there.hops for pid in (hop.sender_pid, hop.receiver_pid)}) == 2
