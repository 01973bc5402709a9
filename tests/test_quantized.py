"""The quantized hand-off: forwarded codes, exact budgets, a card that trusts nobody."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import codecs
from quantizing import chain, restored, restored_raw, strategy
from torch import Tensor

from avpbench import wire
from avpbench.codecs.levels import DROPPED, NATIVE
from avpbench.core import AgentState
from avpbench.engine.batch import Start
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError, ControllerError
from avpbench.strategies.quantized import Quantized

CODECS = codecs()


@pytest.mark.parametrize("codec", CODECS)
def test_codes_are_forwarded_bit_for_bit(tiny: Engine, codec: str) -> None:
    """After any number of hops a token is what it was after its first: the caches agree exactly where both have it."""
    made = strategy(f"strategy/codec={codec}", "strategy.budget_bits=5")
    sent = chain(tiny, made, 4)
    prefixes = [restored(made, parcel, tiny) for _, parcel in sent]
    for earlier, later in itertools.pairwise(prefixes):
        assert earlier.cache is not None
        assert later.cache is not None
        count = len(earlier.cache.positions_T)
        assert torch.equal(later.cache.positions_T[:count], earlier.cache.positions_T)
        for a, b in zip(earlier.cache.keys_HTD + earlier.cache.values_HTD, later.cache.keys_HTD + later.cache.values_HTD, strict=True):
            assert torch.equal(b[:, :count], a)
        assert later.token_ids[: len(earlier.token_ids)] == earlier.token_ids


def test_requantizing_drifts(tiny: Engine) -> None:
    """The ablation: tokens of the first hop move with every later one. (The mutant of the test above.)"""
    made = strategy("strategy.requantize=true", "strategy.budget_bits=5")
    first, *_, last = [restored(made, parcel, tiny) for _, parcel in chain(tiny, made, 4)]
    assert first.cache is not None
    assert last.cache is not None
    shared = first.cache.positions_T[torch.isin(first.cache.positions_T, last.cache.positions_T)]
    a, b = (c.keys_HTD[1][:, torch.isin(c.positions_T, shared)] for c in (first.cache, last.cache))
    assert float((a - b).abs().max()) > 1e-3


@pytest.mark.parametrize("codec", [c for c in CODECS if c.values[0] != "kivi"])
@pytest.mark.parametrize("controller", ["uniform", "snapkv", "random", "inverse", "recency"])
@pytest.mark.parametrize("budget", [2.5, 3.0, 4.0, 6.5, 9.0, 20.0])
def test_what_a_hop_adds_is_within_its_budget_and_near_it(tiny: Engine, codec: str, controller: str, budget: float) -> None:
    """Of codecs whose levels a token has alone; blocks: the controllers' contract."""
    made = strategy(f"strategy/controller={controller}", f"strategy/codec={codec}", f"strategy.budget_bits={budget}")
    before, span = 0, 0
    values = 2 * tiny.spec.num_layers * tiny.spec.num_kv_heads * tiny.spec.head_dim
    for state, parcel in chain(tiny, made, 3):
        size = wire.num_bytes(parcel)
        allowed = int(budget * values * (state.cache.span - span) / 8)
        assert size == len(wire.encode(parcel))
        assert size - before <= allowed
        assert before + allowed < min(one_more(made, state, tiny, parcel.tensors["levels"][span:], controller == "uniform"), default=10**9)
        before, span = size, state.cache.span


def one_more(made: Quantized, state: AgentState, engine: Engine, levels_N: Tensor, evenly: bool) -> list[int]:
    """Bytes of the parcel with one more token raised: of those at each level the first one, to the next. `evenly`: of the lowest level only."""
    draft = made._draft(state, engine)
    names, free = draft.request.table.names, ~draft.request.protected_N
    sizes = []
    for level in sorted(set(levels_N[free].tolist()) - {NATIVE})[: 1 if evenly else None]:
        raised = levels_N.clone()
        raised[(free & (levels_N == level)).nonzero()[0, 0]] = names[names.index(level) + 1]
        sizes.append(draft.num_bytes(raised))
    return sizes


@pytest.mark.parametrize("codec", CODECS)
def test_a_level_is_a_budget(tiny: Engine, codec: str) -> None:
    """`uniform` has that level and no other; others take the same bytes, less than a step under it."""
    lowest = strategy(f"strategy/codec={codec}").codec.widths[0]
    words = (f"strategy/codec={codec}", f"strategy.budget_bits=level{lowest}", "strategy.sinks=1", "strategy.recent=1")
    plain, ranked = strategy("strategy/controller=uniform", *words), strategy("strategy/controller=key_norm", *words)
    for state, parcel in chain(tiny, plain, 3):
        draft = plain._draft(state, tiny)
        levels_N = parcel.tensors["levels"][len(draft.old_levels_T) :]
        assert set(levels_N[~draft.request.protected_N].tolist()) == {lowest}
        assert wire.num_bytes(parcel) == plain.most_bytes(state, tiny)
    for state, parcel in chain(tiny, ranked, 3):
        draft = ranked._draft(state, tiny)
        assert wire.num_bytes(parcel) <= draft.allowance
        if codec != "kivi":  # whose tokens are raised by blocks
            more = min(one_more(ranked, state, tiny, parcel.tensors["levels"][len(draft.old_levels_T) :], False))
            assert draft.allowance < more + 320, "a step, and what a level's rows of the header take"


@pytest.mark.parametrize(("codec", "bad"), [("affine", "level3"), ("kivi", "level8"), ("fp8", "level"), ("affine", "four")])
def test_a_budget_that_is_neither_bits_nor_a_level(codec: str, bad: str) -> None:
    with pytest.raises(ConfigError, match=r"strategy.budget_bits must be a number .*got '?" + bad):
        strategy(f"strategy/codec={codec}", f"strategy.budget_bits={bad}")


@pytest.mark.parametrize(("sinks", "recent", "place"), [(1, 0, 0), (0, 1, -1)])
@pytest.mark.parametrize("codec", CODECS)
def test_protected_tokens_are_single_ones_whatever_the_codec_s_blocks(
    tiny: Engine, codec: str, sinks: int, recent: int, place: int
) -> None:
    """A recent window in full precision (KIVI's), cut to the token: no block of its neighbours becomes native with it."""
    level = strategy(f"strategy/codec={codec}").codec.widths[-1]
    words = (f"strategy/codec={codec}", f"strategy.budget_bits=level{level}", f"strategy.sinks={sinks}", f"strategy.recent={recent}")
    made = strategy("strategy/controller=uniform", *words)
    state, parcel = chain(tiny, made, 1)[0]
    levels = parcel.tensors["levels"]
    assert (levels == NATIVE).nonzero()[:, 0].tolist() == [place % len(levels)]
    prefix = restored(made, parcel, tiny)
    assert prefix.cache is not None
    assert torch.equal(prefix.cache.keys_HTD[0][:, place], state.cache.keys_HTD[0][:, place])


def test_dropped_tokens_leave_gaps_at_their_true_positions(tiny: Engine) -> None:
    made = strategy("strategy.budget_bits=1.5")
    _, parcel = chain(tiny, made, 1)[0]
    dropped = (parcel.tensors["levels"] == DROPPED).nonzero()[:, 0]
    assert len(dropped) > 0
    prefix = restored(made, parcel, tiny)
    assert prefix.cache is not None
    assert not set(dropped.tolist()) & set(prefix.cache.positions_T.tolist())
    assert prefix.cache.span == len(parcel.tensors["levels"])


def test_eight_bits_change_next_to_nothing_and_two_do(tiny: Engine) -> None:
    state = chain(tiny, strategy(), 1)[0][0]
    exact = restored_raw(state, tiny)
    gaps = []
    for bits in ("level8", "level2"):
        made = strategy("strategy/controller=uniform", f"strategy.budget_bits={bits}")
        start = Start(made.inject(made.export(state, tiny, tiny.spec), tiny), tiny.template.following("And?"))
        gaps.append(float((tiny.prefill([start]).logits_BV - exact).abs().max()))
    assert 10 * gaps[0] < gaps[1], gaps


def test_the_oracle_is_for_fidelity_only(tiny: Engine) -> None:
    with pytest.raises(ControllerError, match="fidelity phase"):
        chain(tiny, strategy("strategy/controller=oracle"), 1)
