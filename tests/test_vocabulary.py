"""Between vocabularies: two tokenizers meet in what their tokens spell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import stranger, trained
from projecting import exported, state_of, strategy

from avpbench.engine.batch import Start
from avpbench.engine.engine import Engine
from avpbench.engine.vocabulary import between, spellings
from avpbench.errors import IncompatibleModels
from avpbench.strategies.states import hidden, places


def test_two_tokenizers_meet_in_what_tokens_spell(tmp_path: Path) -> None:
    gpt, pieces = stranger(tmp_path / "a", "bytes"), stranger(tmp_path / "b", "pieces")
    shared = between(gpt.spec, pieces.spec)
    ours, theirs = gpt.tokenizer.get_vocab(), pieces.tokenizer.get_vocab()
    pairs = dict(zip(shared.source_ids_S.tolist(), shared.target_ids_S.tolist(), strict=True))
    assert pairs[ours["\u0120apples"]] == theirs["\u2581apples"]
    assert pairs[ours["\u00ff"]] == theirs["<0xFF>"]  # a byte on both sides
    assert pairs[ours["\u010a"]] == theirs["\n"]  # where there is a token for the character, it goes before the byte
    assert pairs[ours["<s>"]] == theirs["<s>"]
    assert 0.3 < shared.overlap < 1
    counts = [sum(not special and len(spelled) > 1 for special, spelled in spellings(e.tokenizer)) for e in (gpt, pieces)]
    multi = [k for k in spellings(gpt.tokenizer).keys() & spellings(pieces.tokenizer).keys() if not k[0] and len(k[1]) > 1]
    assert shared.overlap == len(multi) / min(counts)
    assert len(set(ours) & set(theirs)) / min(map(len, (ours, theirs))) < shared.overlap  # by raw spelling, most would be missed


def test_byte_symbols_alone_are_no_overlap(tmp_path: Path, tiny: Engine) -> None:
    bare = stranger(tmp_path / "bare", "bytes", 258)
    assert len(bare.tokenizer) == 258
    shared = between(tiny.spec, bare.spec)
    assert len(shared.source_ids_S) > 200
    assert shared.overlap == 0
    with pytest.raises(IncompatibleModels, match=r"share 0\.0% of the smaller vocabulary; strategy.min_overlap wants 30\.0%"):
        strategy().check(tiny.spec, bare.spec)


def test_soft_tokens_of_another_vocabulary_are_the_same_words(tiny: Engine, foreign: Engine) -> None:
    """Every mapped id spells at the receiver what it spelled at the sender, and the mass is of the whole distribution."""
    made = strategy("strategy.gate=off")
    parcel = exported(tiny, made, foreign)
    shared = between(tiny.spec, foreign.spec)
    assert set(parcel.tensors["tokens"].flatten().tolist()) <= set(shared.target_ids_S.tolist())
    state = state_of(tiny, made)
    logits = tiny.model.get_output_embeddings()(hidden(state, tiny, places(state, "all", 1)))[:, : tiny.vocab].detach()
    probs = logits.softmax(-1)
    best = probs[:, shared.source_ids_S].argmax(-1)
    assert parcel.tensors["tokens"][:, 0].tolist() == shared.target_ids_S[best].tolist()
    kept = probs[:, shared.source_ids_S].topk(32).values.sum(-1).mean()
    assert parcel.card.body["mass"] == pytest.approx(float(kept), rel=1e-4)
    prefix = made.inject(parcel, foreign)
    assert foreign.prefill([Start(prefix, foreign.template.following("And?"))])[1].isfinite().sum() == foreign.vocab


def test_a_vocabulary_that_was_never_met_is_said(tiny: Engine) -> None:
    with pytest.raises(IncompatibleModels, match="is not known in this process"):
        strategy().check(tiny.spec, replace(tiny.spec, name="far", tokenizer_id="0" * 16))


def test_a_tokenizer_of_pieces_spells_bytes(tmp_path: Path) -> None:
    found = spellings(trained(tmp_path, "pieces", 400))
    assert (False, b"A") in found
    assert (False, bytes([0xFF])) in found
    assert (True, b"</s>") in found
    assert (False, b"</s>") not in found
