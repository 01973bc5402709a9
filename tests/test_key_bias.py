"""The key bias of Qwen2: taken out and put back exactly, and what it decides."""

from __future__ import annotations

from dataclasses import replace

import torch
from quantizing import STORY, chain, restored, strategy
from transformers import AutoModelForCausalLM, Qwen2Config

from avpbench.core import Prefix
from avpbench.engine.batch import Start
from avpbench.engine.bias import key_bias
from avpbench.engine.engine import Engine


def with_bias(engine: Engine, deviation: float) -> Engine:
    """The same model with a planted key bias, in a copy."""
    config = Qwen2Config(**{k: v for k, v in engine.model.config.to_dict().items() if k != "dtype"})
    config._attn_implementation = "sdpa"
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(engine.model.state_dict())
    for layer in (0, len(model.model.layers) - 1):
        noise = torch.randn(model.model.layers[layer].self_attn.k_proj.bias.shape, generator=torch.Generator().manual_seed(layer))
        model.model.layers[layer].self_attn.k_proj.bias.data += deviation * noise
    return Engine(model.eval(), engine.tokenizer, replace(engine.spec, weights_id=f"bias{deviation}"), engine.window, None, ())


def test_the_key_bias_is_taken_out_exactly(tiny: Engine) -> None:
    """Keys minus the turned bias are the keys of a model without it, for the first layer, whose input is the same."""
    plain, biased = (with_bias(tiny, deviation) for deviation in (0.0, 50.0))
    ids = tiny.template.first(STORY)
    keys = [engine.prefill([Start(Prefix(), ids)]).caches[0].keys_HTD[0] for engine in (plain, biased)]
    positions = torch.arange(len(ids))
    removed = [k - key_bias(e.model, positions)[0].values_HTD for k, e in zip(keys, (plain, biased), strict=True)]
    assert float((removed[0] - removed[1]).abs().max()) < 1e-4
    assert float((keys[0] - keys[1]).abs().max()) > 50


def test_the_key_bias_decides_whether_int4_works(tiny: Engine) -> None:
    engine = with_bias(tiny, 50.0)
    state = chain(engine, strategy(), 1)[0][0]
    truth = state.cache
    errors = []
    for keep in ("true", "false"):
        made = strategy("strategy/controller=uniform", "strategy.budget_bits=5.6", f"strategy.key_bias={keep}")
        cache = restored(made, made.export(state, engine, engine.spec), engine).cache
        assert cache is not None
        errors.append(float((cache.keys_HTD[0] - truth.keys_HTD[0]).square().mean()))
    assert errors[0] < errors[1] / 50
