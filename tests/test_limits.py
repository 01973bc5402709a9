"""The roofline: against limits worked out by hand, and against the clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from avpbench.aggregate import eta
from avpbench.engine.engine import Engine
from avpbench.engine.work import work_of
from avpbench.limits import Rates, Work, pass_flop, ttft_limit_s
from avpbench.meter import measured_rates
from avpbench.records import LatencyRecord

H100 = Rates(3.35e12, 55e9, 800e12)
LAYERS = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)  # Llama-3.1-8B
LLAMA = Work(2 * LAYERS, 2 * 4096 * 128256, 4 * 32 * 32 * 128, 2 * (LAYERS + 4096 * 128256), 128 * 1024)


@pytest.mark.parametrize(
    ("tokens", "prefill_ms", "inject_ms"), [(1024, 18.2, 4.60), (4096, 77.0, 4.96), (8192, 164.9, 5.44), (32768, 923.6, 8.33)]
)
def test_limits_of_an_h100(tokens: int, prefill_ms: float, inject_ms: float) -> None:
    """(2 P N + 2 L Hq D N^2) / F and 2 KV / B + (W + KV) / B, P and W without the embedding."""
    assert 1000 * ttft_limit_s(LLAMA, H100, 0, tokens, 0) == pytest.approx(prefill_ms, rel=0.01)
    assert 1000 * ttft_limit_s(LLAMA, H100, tokens, 1, tokens * LLAMA.kv_bytes) == pytest.approx(inject_ms, rel=0.01)


def test_an_upload_is_paid_where_memories_differ() -> None:
    size = 8192 * LLAMA.kv_bytes
    there, here = (ttft_limit_s(LLAMA, rates, 8192, 1, size, size) for rates in (H100, replace(H100, upload_bytes_per_s=None)))
    assert there - here == pytest.approx(size / 55e9)


def test_work_is_what_the_models_shape_says(tiny: Engine, untied: Engine) -> None:
    for engine in (tiny, untied):
        config, work = engine.model.config, work_of(engine)
        per_layer = sum(p.numel() for p in engine.model.model.layers[0].parameters())
        norms = engine.model.model.norm.weight.numel()
        assert work.token_flop == 2 * (per_layer * config.num_hidden_layers + norms)
        assert work.head_flop == 2 * config.vocab_size * config.hidden_size
        assert work.weight_bytes == (work.token_flop + work.head_flop) / 2 * 4
        cache = engine.prefill([_start(9)]).caches[0]
        assert work.kv_bytes == cache.num_bytes / 9


def _start(tokens: int):  # type: ignore[no-untyped-def]
    from avpbench.core import Prefix
    from avpbench.engine.batch import Start

    return Start(Prefix(), tuple(range(5, 5 + tokens)))


def test_a_pass_of_two_pieces_computes_what_one_does() -> None:
    whole = pass_flop(LLAMA, 0, 1000)
    assert pass_flop(LLAMA, 0, 600) + pass_flop(LLAMA, 600, 400) - LLAMA.head_flop == pytest.approx(whole)


def test_measured_rates_are_what_the_clock_says() -> None:
    from avpbench.meter import total

    cpu = torch.device("cpu")
    rates = measured_rates(cpu, torch.float32, torch.get_num_threads())
    assert rates.upload_bytes_per_s is None
    a = torch.ones(512, 512)
    with total(cpu) as took:
        for _ in range(8):
            a @ a
    assert 8 * 2 * 512**3 / took.seconds < 4 * rates.matmul_flop_per_s
    assert 1e8 < rates.copy_bytes_per_s < 1e13
    assert measured_rates(cpu, torch.float32, torch.get_num_threads()) is rates


def test_eta_is_limit_over_time_and_absent_without_limits() -> None:
    rows = [LatencyRecord(b, 0, "raw", "host", 2.0 + b, None, "a", 10, 5, 100, "1", False, limit_s=0.5 + b) for b in range(2)]
    assert eta(rows, "raw", "host") == pytest.approx(0.5 / 2.5), "of the best process"
    longer = replace(rows[0], block=2, prefix_tokens=20, seconds=5.0, limit_s=2.0)
    assert eta([*rows, longer], "raw", "host") == pytest.approx(3.0 / 10.0), "each length has a limit of its own"
    assert eta(rows, "raw", "device") is None
    assert eta([rows[0], replace(rows[1], limit_s=None)], "raw", "host") is None
