"""Cards: opened from bytes alone, and refused where they lie."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import codecs, installed_codecs
from quantizing import chain, restored, strategy

from avpbench import wire
from avpbench.codecs import coded
from avpbench.core import CacheCard, Parcel
from avpbench.engine.engine import Engine
from avpbench.errors import AvpBenchError, WireError

CODECS = codecs()


def test_parcels_are_opened_in_a_fresh_process(tiny: Engine, tmp_path: Any) -> None:
    """From the bytes and the YAML alone, by a receiver whose own codec is another: the card says what is needed."""
    caches, own = [], installed_codecs()
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


@pytest.mark.parametrize("codec", CODECS)
def test_looking_through_a_large_card_takes_less_than_twice_its_file(tiny: Engine, codec: str) -> None:
    """One number of millions is not finite: found without a copy of them all."""
    from fuzz import endless, long_parcel, risen

    made = strategy(f"strategy/codec={codec}", "strategy/controller=uniform", "strategy.budget_bits=9.5")
    parcel = long_parcel(tiny, made, 8_000)
    for seed in range(4):
        bad = bytearray(wire.encode(endless(parcel, random.Random(seed))))

        def refused(bad: bytearray = bad) -> None:
            with pytest.raises(WireError, match="finite"):
                made.inject(wire.decode(bad), tiny)

        assert risen(refused) < 2 * len(bad)


@pytest.mark.parametrize("other", ["strategy/codec=hadamard", "strategy.keys_step=1", "strategy.key_bias=false"])
def test_codes_of_another_kind_are_not_forwarded(tiny: Engine, other: str) -> None:
    (state, _), *_ = chain(tiny, strategy(), 2)[1:]
    assert state.received is not None
    with pytest.raises(WireError, match=r"came, this agent writes .*strategy\.requantize=true"):
        strategy(other).export(state, tiny, tiny.spec)
    assert strategy(other, "strategy.requantize=true").export(state, tiny, tiny.spec).tensors
