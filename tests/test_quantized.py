"""The quantized hand-off: forwarded codes, exact budgets, a card that trusts nobody."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import codecs
from quantizing import chain, restored, restored_raw, strategy
from torch import Tensor

from avpbench import wire
from avpbench.codecs import coded
from avpbench.codecs.levels import DROPPED, NATIVE
from avpbench.core import AgentState, CacheCard, Parcel
from avpbench.engine.batch import Start
from avpbench.engine.engine import Engine
from avpbench.errors import AvpBenchError, ConfigError, ControllerError, WireError
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


@pytest.mark.parametrize("controller", ["uniform", "snapkv"])
@pytest.mark.parametrize("budget", [2.5, 3.0, 4.0, 6.5, 9.0, 20.0])
def test_what_a_hop_adds_is_within_its_budget_and_near_it(tiny: Engine, controller: str, budget: float) -> None:
    made = strategy(f"strategy/controller={controller}", f"strategy.budget_bits={budget}")
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
            assert draft.allowance < min(one_more(ranked, state, tiny, parcel.tensors["levels"][len(draft.old_levels_T) :], False))


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
    for bits in (9.5, 3.6):
        made = strategy("strategy/controller=uniform", f"strategy.budget_bits={bits}")
        start = Start(made.inject(made.export(state, tiny, tiny.spec), tiny), tiny.template.following("And?"))
        gaps.append(float((tiny.prefill([start]).logits_BV - exact).abs().max()))
    assert gaps[0] < 0.2 < gaps[1]


def test_the_oracle_is_for_fidelity_only(tiny: Engine) -> None:
    with pytest.raises(ControllerError, match="fidelity phase"):
        chain(tiny, strategy("strategy/controller=oracle"), 1)


def test_parcels_are_opened_in_a_fresh_process(tiny: Engine, tmp_path: Any) -> None:
    """From the bytes and the YAML alone, by a receiver whose own codec is another: the card says what is needed."""
    caches, own = [], [codec for codec in CODECS if isinstance(codec, str)]  # the others want a library
    for codec in own:
        made = strategy(f"strategy/codec={codec}", "strategy.budget_bits=5")
        _, parcel = chain(tiny, made, 1)[0]
        (tmp_path / codec).write_bytes(wire.encode(parcel))
        caches.append(restored(made, parcel, tiny).cache)
    code = (
        "import sys, torch; from pathlib import Path; from avpbench import wire; from avpbench.build import build; from avpbench.config import compose\n"
        "from avpbench.engine.load import load; from avpbench.setup import sources_of\n"
        "engine = load(sources_of(compose([]), 1)[0], torch.device('cpu'), torch.float32)\n"
        "made = build(compose(['strategy=uniform', 'strategy/codec=hadamard']).strategy)\n"
        "for codec in sys.argv[2:]:\n"
        "    cache = made.inject(wire.decode(Path(sys.argv[1], codec).read_bytes()), engine).cache\n"
        "    print(cache.span, float(sum(k.double().sum() for k in cache.keys_HTD)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), *own], capture_output=True, text=True, check=True)
    for cache, line in zip(caches, done.stdout.splitlines(), strict=True):
        assert cache is not None
        span, total = line.split()
        assert int(span) == cache.span
        assert float(total) == pytest.approx(float(sum(k.double().sum() for k in cache.keys_HTD)), abs=1e-6)


def test_a_card_that_lies_is_refused(tiny: Engine) -> None:
    made = strategy("strategy.budget_bits=5")
    _, parcel = chain(tiny, made, 1)[0]
    tensors, card = parcel.tensors, parcel.card

    def card_with(**body: object) -> Parcel:
        return Parcel(CacheCard(card.kind, card.sender, card.body | body), tensors)

    def tensors_with(**changed: torch.Tensor) -> Parcel:
        return Parcel(card, tensors | changed)

    levels = tensors["levels"]
    strange, moved = levels.clone(), levels.clone()
    strange[3] = 7
    moved[(levels == 2).nonzero()[0]] = 4
    name, scales = (next(n for n in tensors if n.endswith(end)) for end in ("codes", "scales"))
    lies = [
        (card_with(span=len(levels) + 1), "span"),
        (card_with(span="9"), "span"),
        (card_with(codec={"name": "nonsense"}), "codec"),
        (card_with(codec=[1]), "malformed"),
        (card_with(layer_steps={"99": 1}), "layer 99"),
        (card_with(keys_step=2**70), "tensor|levels|asks?"),
        (card_with(key_bias=1), "key_bias"),
        (Parcel(replace(card, sender=replace(card.sender, weights_id="0")), tensors), "another model: weights_id"),
        (Parcel(replace(card, sender=replace(card.sender, tokenizer_id="0")), tensors), "another model: tokenizer_id"),
        (tensors_with(levels=levels[:-1].clone()), "span"),
        (tensors_with(levels=levels.int()), "levels"),
        (tensors_with(levels=strange), "level 7"),
        (tensors_with(levels=moved), "the levels ask for"),
        (tensors_with(**{name: tensors[name][:, :, :-1].contiguous()}), "ask for"),
        (tensors_with(**{name: tensors[name].to(torch.uint8)}), "ask for"),
        (Parcel(card, {n: t for n, t in tensors.items() if n != name}), "ask for the tensors"),
        (tensors_with(extra=torch.zeros(3)), "ask for the tensors"),
        (tensors_with(**{scales: torch.full_like(tensors[scales], torch.nan)}), "scales are not all finite"),
        (tensors_with(native=torch.full_like(tensors["native"], torch.inf)), "no finite number"),
    ]
    for lie, message in lies:
        with pytest.raises(WireError, match=message):
            restored(made, lie, tiny)


@pytest.mark.parametrize("codec", ["affine", "kivi", "lloydmax"])
def test_mutated_cards_end_in_one_typed_error(tiny: Engine, codec: str) -> None:
    """Damage in any byte, and in header and tensors under a right digest (what a hostile sender writes)."""
    from fuzz import damaged, hostile

    made = strategy(f"strategy/codec={codec}", "strategy.budget_bits=5.5")
    _, parcel = chain(tiny, made, 1)[0]
    good = bytes(wire.encode(parcel))
    rng = random.Random(codec)
    refused_count = 0
    for number in range(400):
        bad = damaged(good, rng) if number % 2 else hostile(parcel, rng)
        try:
            prefix = made.inject(wire.decode(bad), tiny)
            assert prefix.cache is not None
        except AvpBenchError:
            refused_count += 1
    assert refused_count > 300


def test_a_card_that_is_refused_took_no_memory(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes of kivi's blocks are compared before anything is unpacked."""
    made = strategy("strategy/codec=kivi", "strategy.budget_bits=5.5")
    _, parcel = chain(tiny, made, 1)[0]
    name = next(n for n in parcel.tensors if n.endswith("sizes"))
    sizes = parcel.tensors[name].clone()
    sizes[0, 0, 0] += 1
    monkeypatch.setattr(coded, "decode", None)
    with pytest.raises(WireError, match="blocks hold"):
        restored(made, Parcel(parcel.card, parcel.tensors | {name: sizes}), tiny)


@pytest.mark.parametrize("other", ["strategy/codec=hadamard", "strategy.keys_step=1", "strategy.key_bias=false"])
def test_codes_of_another_kind_are_not_forwarded(tiny: Engine, other: str) -> None:
    (state, _), *_ = chain(tiny, strategy(), 2)[1:]
    assert state.received is not None
    with pytest.raises(WireError, match=r"came, this agent writes .*strategy\.requantize=true"):
        strategy(other).export(state, tiny, tiny.spec)
    assert strategy(other, "strategy.requantize=true").export(state, tiny, tiny.spec).tensors
