"""The engine: batches change nothing, prefixes are never changed, positions and masks are explicit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import dummy

from avpbench.core import LATENT, KVCache, Prefix
from avpbench.engine.batch import Start
from avpbench.engine.capture import CAPTURES
from avpbench.engine.continuation import Continuation, Speech
from avpbench.engine.engine import Engine
from avpbench.engine.realign import Realign
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import ConfigError, OutOfMemory
from avpbench.probe import floor

WORDS = ("Tom has 3 apples.", "Sue has 4 more apples than Tom, and gives away half of the apples. How many?", "Max: 7")
GREEDY = Sampling()


def starts(engine: Engine) -> list[Start]:
    return [Start(Prefix(), engine.template.first(words)) for words in WORDS]


def speech(tokens: int = 10, seed: str = "s", script: tuple[int, ...] | None = None) -> Speech:
    return Speech(tokens, generator(seed), script)


def speak(engine: Engine, rows: list[Start], tokens: int = 10, sampling: Sampling = GREEDY) -> list[Continuation]:
    return engine.speak(rows, [speech(tokens, str(k)) for k in range(len(rows))], sampling)


def carried_on(engine: Engine, done: Continuation, words: str = "And now?") -> tuple[Start, Start]:
    """Going on from a cache, and from the same tokens without it."""
    following = engine.template.following(words)
    with_cache = Prefix(token_ids=done.token_ids, soft_NE=done.soft_NE, cache=done.cache)
    return Start(with_cache, following), Start(Prefix(token_ids=done.token_ids, soft_NE=done.soft_NE), following)


def test_batch_mates_change_nothing(engine: Engine) -> None:
    rows = starts(engine)
    assert [d.new_ids for d in speak(engine, rows)] == [speak(engine, [row])[0].new_ids for row in rows]


def test_prefixes_of_different_lengths_share_a_batch(engine: Engine) -> None:
    done = speak(engine, starts(engine), 6)
    rows = [row for d in done for row in carried_on(engine, d)]
    together = speak(engine, rows)
    alone = [speak(engine, [row])[0] for row in rows]
    assert [d.new_ids for d in together] == [d.new_ids for d in alone]
    assert [d.new_ids for d in together[::2]] == [d.new_ids for d in together[1::2]]
    for a, b in zip(together, alone, strict=True):
        assert a.token_ids == b.token_ids
        assert torch.equal(a.cache.positions_T, b.cache.positions_T)
        for x, y in zip(a.cache.keys_HTD, b.cache.keys_HTD, strict=True):
            torch.testing.assert_close(x, y, atol=2e-4, rtol=1e-4)


def test_the_cache_is_that_of_the_tokens(engine: Engine) -> None:
    done = speak(engine, starts(engine), 8)[1]
    assert len(done.token_ids) - done.cache.span in (0, 1)
    assert done.cache.positions_T.tolist() == list(range(done.cache.span))
    fresh = engine.prefill([Start(Prefix(), done.token_ids[: done.cache.span])])[0][0]
    for mine, right in zip((*done.cache.keys_HTD, *done.cache.values_HTD), (*fresh.keys_HTD, *fresh.values_HTD), strict=True):
        torch.testing.assert_close(mine, right, atol=2e-4, rtol=1e-4)


def test_going_on_changes_nobodys_cache(engine: Engine) -> None:
    done = speak(engine, starts(engine)[:1], 6)[0]
    before = [t.clone() for t in (*done.cache.keys_HTD, *done.cache.values_HTD)]
    with_cache, _ = carried_on(engine, done)
    speak(engine, [with_cache], 80)
    engine.think([with_cache], 3)
    engine.score([with_cache], [(5, 6)])
    after = (*done.cache.keys_HTD, *done.cache.values_HTD)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_dropped_tokens_leave_gaps_in_positions(engine: Engine) -> None:
    """A cache without some tokens equals the full one with those tokens masked out of attention."""
    ids = engine.template.first(WORDS[1])
    full = engine.prefill([Start(Prefix(), ids)])[0][0]
    kept = torch.tensor([k for k in range(len(ids)) if k % 5 != 2 or k > len(ids) - 4])
    short = KVCache(tuple(t[:, kept] for t in full.keys_HTD), tuple(t[:, kept] for t in full.values_HTD), kept, len(ids))
    following = engine.template.following("And?")
    ours = engine.prefill([Start(Prefix(token_ids=ids, cache=short), following)])[1][0]

    mask = torch.zeros(1, len(ids) + len(following), dtype=torch.long)
    mask[0, kept] = 1
    mask[0, len(ids) :] = 1
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache()
    for layer, (k, v) in enumerate(zip(full.keys_HTD, full.values_HTD, strict=True)):
        cache.update(k[None], v[None], layer)
    with torch.inference_mode():
        right = engine.model(
            input_ids=torch.tensor([following]), attention_mask=mask, past_key_values=cache,
            position_ids=torch.arange(len(ids), len(ids) + len(following))[None],
        ).logits[0, -1]  # fmt: skip
    usable = len(engine.tokenizer)
    torch.testing.assert_close(ours[:usable], right[:usable], atol=1e-3, rtol=1e-4)
    wrong = engine.prefill([Start(Prefix(token_ids=tuple(ids[k] for k in kept), cache=replace(short, span=len(kept))), following)])[1][0]
    assert float((wrong[:usable] - right[:usable]).abs().max()) > 20 * floor(engine, starts(engine))[0]


def test_finish_reasons_and_counts(tiny: Engine) -> None:
    stop = next(iter(tiny.stop_ids))
    row = starts(tiny)[:1]
    cut = tiny.speak(row, [speech(3)], GREEDY)[0]
    assert (cut.finish, len(cut.new_ids), len(cut.token_ids) - cut.cache.span) == ("length", 3, 1)
    scripted = tiny.speak(row, [speech(9, script=(11, 12, 13))], GREEDY)[0]
    assert (scripted.finish, scripted.new_ids) == ("script", (11, 12, 13))
    stopped = tiny.speak(row, [speech(9, script=(11, 12, stop))], GREEDY)[0]
    assert (stopped.finish, stopped.new_ids) == ("stop", (11, 12, stop))
    assert stopped.token_ids == (*row[0].prompt_ids, 11, 12)
    assert len(stopped.token_ids) == stopped.cache.span
    assert (stopped.cached_tokens, stopped.prefilled_tokens) == (0, len(row[0].prompt_ids))
    after, _ = carried_on(tiny, stopped)
    gone_on = tiny.speak([after], [speech(2)], GREEDY)[0]
    assert (gone_on.cached_tokens, gone_on.prefilled_tokens) == (len(stopped.token_ids), len(after.prompt_ids))


def test_a_long_row_survives_its_mates(tiny: Engine) -> None:
    """Rows that end early are dropped from the batch; the one that goes on does not notice."""
    rows = starts(tiny) * 2
    lengths = [2, 3, 90, 2, 4, 5]
    scripts = [tuple(30 + (k * 7 + row) % 200 for k in range(n)) for row, n in enumerate(lengths)]
    together = tiny.speak(rows, [speech(n, script=s) for n, s in zip(lengths, scripts, strict=True)], GREEDY)
    alone = tiny.speak([rows[2]], [speech(90, script=scripts[2])], GREEDY)[0]
    assert [len(d.new_ids) for d in together] == lengths
    for mine, right in zip(together[2].cache.values_HTD, alone.cache.values_HTD, strict=True):
        torch.testing.assert_close(mine, right, atol=2e-4, rtol=1e-4)


def test_sampling_depends_on_the_rows_own_seed(untied: Engine) -> None:
    hot = Sampling(temperature=1.0, top_p=0.95)
    rows = starts(untied)
    together = speak(untied, rows, 12, hot)
    assert speak(untied, rows, 12, hot)[0].new_ids == together[0].new_ids
    alone = untied.speak(rows[1:2], [speech(12, "1")], hot)[0]
    assert alone.new_ids == together[1].new_ids
    assert untied.speak(rows[1:2], [speech(12, "other")], hot)[0].new_ids != alone.new_ids


def test_top_p_draws_only_from_the_top() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    drawn = {Sampling(1.0, 0.6).choose(logits, [generator(str(k))])[0] for k in range(200)}
    assert drawn == {0, 1}


def test_padding_rows_of_the_vocabulary_are_never_said(untied: Engine) -> None:
    assert untied.model.config.vocab_size > len(untied.tokenizer)
    said = speak(untied, starts(untied), 40, Sampling(temperature=5.0))
    assert max(max(d.new_ids) for d in said) < len(untied.tokenizer)


def test_latent_steps_are_recomputed_from_their_inputs(engine: Engine) -> None:
    thought = engine.think(starts(engine), 4)
    for done in thought:
        assert done.token_ids[-4:] == (LATENT,) * 4
        assert done.latent_steps == 4
        assert done.soft_NE is not None
        with_cache, recomputed = carried_on(engine, done)
        a, b = (engine.prefill([row])[1][0, : len(engine.tokenizer)] for row in (with_cache, recomputed))
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)
        norms = torch.linalg.vector_norm(done.soft_NE, dim=-1)
        table = engine.model.get_input_embeddings().weight[: len(engine.tokenizer)]
        torch.testing.assert_close(norms, torch.linalg.vector_norm(table, dim=-1).mean().expand(4), atol=1e-3, rtol=1e-3)
        wrong = replace(recomputed.prefix, soft_NE=done.soft_NE.flip(0))
        c = engine.prefill([Start(wrong, recomputed.prompt_ids)])[1][0, : len(engine.tokenizer)]
        assert float((c - a).abs().max()) > 20 * float((a - b).abs().max())


def test_thinking_goes_on_after_thinking(engine: Engine) -> None:
    first = engine.think(starts(engine)[:2], 2)
    pairs = [carried_on(engine, done) for done in first]
    from_cache = engine.think([a for a, _ in pairs], 2)
    recomputed = engine.think([b for _, b in pairs], 2)
    for a, b in zip(from_cache, recomputed, strict=True):
        assert a.token_ids == b.token_ids
        assert a.soft_NE is not None
        assert a.soft_NE.shape[0] == a.token_ids.count(LATENT) == 4
        torch.testing.assert_close(a.soft_NE, b.soft_NE, atol=2e-3, rtol=1e-2)


def test_untied_realignment_solves_the_least_squares() -> None:
    """h W is the input embedding whose output logits are nearest: exact where the head is the embedding itself."""
    engine = dummy("qwen2", seed=5)
    engine.model.get_output_embeddings().weight.data.copy_(engine.model.get_input_embeddings().weight.data)
    h = torch.randn(3, 48)
    realigned = Realign(engine.model, len(engine.tokenizer))(h, torch.zeros(3, 1000))
    direction = torch.nn.functional.normalize(realigned, dim=-1)
    torch.testing.assert_close(direction, torch.nn.functional.normalize(h, dim=-1), atol=1e-3, rtol=1e-3)


def test_score_is_the_log_probability_of_what_was_said(engine: Engine) -> None:
    rows = starts(engine)
    said = [d.new_ids for d in speak(engine, rows, 7)]
    together = engine.score(rows, said)
    for row, ids, scores in zip(rows, said, together, strict=True):
        assert scores.shape[0] == len(ids)
        torch.testing.assert_close(scores.exp().sum(-1), torch.ones(len(ids)), atol=1e-4, rtol=1e-4)
        assert scores.argmax(-1).tolist() == list(ids)
        alone = engine.score([row], [ids])[0]
        usable = slice(0, len(engine.tokenizer))
        torch.testing.assert_close(alone[:, usable], scores[:, usable], atol=2e-3, rtol=1e-3)


def test_memory_errors_are_told_apart(untied: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(untied.model, "forward", exhausted)
    with pytest.raises(OutOfMemory):
        speak(untied, starts(untied))

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(untied.model, "forward", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        speak(untied, starts(untied))


@pytest.mark.parametrize(("temperature", "top_p"), [(-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.5)])
def test_bad_sampling_is_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(ConfigError):
        Sampling(temperature, top_p)


def test_reciting_is_speaking_the_script_in_one_pass(tiny: Engine) -> None:
    """Rows of unlike lengths: the same ids, caches and captures, up to rounding."""
    rows = [Start(Prefix(), tuple(range(40, 40 + n))) for n in (5, 60)]
    stop = next(iter(tiny.stop_ids))
    scripts = [tuple(range(10, 45)), (7, 8, 9, stop)]
    slow = tiny.speak(rows, [speech(50, script=s) for s in scripts], GREEDY, needs=CAPTURES)
    fast = tiny.recite(rows, scripts, needs=CAPTURES)
    for a, b in zip(slow, fast, strict=True):
        assert (a.token_ids, a.new_ids, a.finish, a.cached_tokens, a.prefilled_tokens) == (
            b.token_ids, b.new_ids, b.finish, b.cached_tokens, b.prefilled_tokens,
        )  # fmt: skip
        assert torch.equal(a.cache.positions_T, b.cache.positions_T)
        for ours, theirs in zip((*a.cache.keys_HTD, *a.cache.values_HTD), (*b.cache.keys_HTD, *b.cache.values_HTD), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)
        assert (a.captured.first, a.captured.said) == (b.captured.first, b.captured.said)
        for name in ("window", "probes"):
            once, again = getattr(a.captured, name), getattr(b.captured, name)
            assert torch.equal(once.positions_P, again.positions_P)
            assert all(torch.allclose(x, y, atol=2e-4) for x, y in zip(once.layers, again.layers, strict=True))
        for name in ("entropy_T", "confidence_T"):
            assert torch.allclose(getattr(a.captured, name), getattr(b.captured, name), atol=1e-3)
