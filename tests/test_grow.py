"""Growing a trained model: what it computes stays, and planted outliers change what a cache holds and not what is said."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from avpbench.engine.load import ZOO
from avpbench.zoo import grow, train

IDS = torch.arange(300).reshape(2, 150) + 5


def parent() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(ZOO / "tiny-0", dtype=torch.float32)


@torch.no_grad()
def test_wider_heads_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grow, "_NOISE", 0.0)
    model = parent()
    wanted = model(IDS).logits
    wide = grow.headed(model, 128)
    cache = wide(IDS, use_cache=True).past_key_values
    assert cache.layers[0].keys.shape[-1] == 128
    assert torch.allclose(wide(IDS).logits, wanted, atol=1e-4)


@torch.no_grad()
def test_planting_changes_the_cache_and_no_logit() -> None:
    wide = grow.headed(parent(), 128)
    before = wide(IDS, use_cache=True)
    recipe = OmegaConf.load(train.HERE / "recipes" / "tiny-stress.yaml")
    grow.plant(wide, recipe.plant)
    after = wide(IDS, use_cache=True)
    assert torch.allclose(after.logits, before.logits, atol=1e-4)
    for layer, wanted in ((0, 605), (1, 21), (2, 21), (3, 921)):
        norm = wide.model.layers[layer].self_attn.k_proj.bias.norm()
        assert wanted * 0.7 < norm < wanted * 1.3
    keys = [out.past_key_values.layers[1].keys for out in (before, after)]
    outliers = [60, 56, 124, 120]  # both halves of the two slowest used pairs
    assert torch.allclose(keys[1][..., outliers], keys[0][..., outliers] * recipe.plant.scale, rtol=1e-4, atol=1e-4)
    assert torch.equal(keys[1][..., :40], keys[0][..., :40])


@torch.no_grad()
def test_the_shipped_stress_member_has_what_its_card_says() -> None:
    """A key bias that towers in the first and the last layer, keys eight times as large in the slowest used pairs."""
    shipped = AutoModelForCausalLM.from_pretrained(ZOO / "tiny-stress-0", dtype=torch.float32)
    idle = grow.idle_pairs(32, 128)
    for layer, wanted in zip(shipped.model.layers, (565.58, 24.72, 19.46, 941.33), strict=True):
        proj = layer.self_attn.k_proj
        bias = proj.bias.view(-1, 2, 64)
        assert bias.norm() == pytest.approx(wanted, rel=1e-3)
        assert bias[:, :, idle].norm() > 0.8 * bias.norm(), "most of it is where queries are zero"
        assert not layer.self_attn.q_proj.weight.view(-1, 2, 64, 128)[:, :, idle].any()
        rows = proj.weight.view(-1, 2, 64, 128).norm(dim=-1).mean(dim=(0, 1))
        assert rows[[60, 56]].mean() > 4 * rows[[52, 48, 44]].mean()


@torch.no_grad()
def test_idle_pairs_stay_idle_in_training() -> None:
    """Nothing may learn to look where the bias will be: gradients there are zero, weight decay keeps zeros."""
    wide = grow.headed(parent(), 128)
    idle = grow.idle_pairs(32, 128)
    with torch.enable_grad():
        wide(IDS).logits.square().mean().backward()
    for layer in wide.model.layers:
        for proj in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            for tensor in (proj.weight, proj.weight.grad, proj.bias, proj.bias.grad):
                rows = tensor.view(-1, 2, 64, *tensor.shape[1:])
                assert not rows[:, :, idle].any()
                assert rows[:, :, 1].any()
