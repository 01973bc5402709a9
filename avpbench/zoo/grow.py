"""Models grown from trained ones: with wider heads, key outliers and a key bias as real Qwen2.5 models have.

`headed` keeps what the parent computes, but for a little noise that training then puts to use (Net2Net,
arXiv 1511.05641). `plant` changes only what a cache holds: not one logit, but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from transformers import AutoConfig, AutoModelForCausalLM

_NOISE = 0.02  # deviation of the weights of new rotary pairs


def headed(parent: Any, head_dim: int) -> Any:
    """The parent (Qwen2, heads of d) with heads of `head_dim` D, a multiple of d; float32.

    Pair i of d/2 becomes pair i * D/d: RoPE turns both at theta^(-2i/d). Queries grow by sqrt(D/d), since scores are divided
    by sqrt(D). Values are turned into D dimensions by an isometry that the output undoes. Of the new pairs, the slow
    ones (`idle_pairs`) are zero in queries and keys, and so stay zero in training; the others begin as noise.
    """
    shape = parent.config
    d = shape.hidden_size // shape.num_attention_heads
    model = _like(parent, {"head_dim": head_dim})
    own = model.state_dict()
    rng = torch.Generator().manual_seed(0)
    for name, value in parent.float().state_dict().items():
        kind = name.split(".")[-2]
        if kind in ("q_proj", "k_proj"):
            value = _pairs(value, d, head_dim, rng) * ((head_dim / d) ** 0.5 if kind == "q_proj" else 1.0)
        elif kind in ("v_proj", "o_proj"):
            turn = torch.linalg.qr(torch.randn(head_dim, d, generator=torch.Generator().manual_seed(1)))[0]
            value = _turned(value, turn) if kind == "v_proj" else _turned(value.T, turn).T
        own[name].copy_(value)
    return model


def idle_pairs(d: int, head_dim: int) -> list[int]:
    """The new pairs of the slowest quarter."""
    return [i for i in range(3 * head_dim // 8, head_dim // 2) if i % (head_dim // d)]


def plant(model: Any, planted: DictConfig) -> None:
    """Plants a key bias in the idle pairs, and key outliers by growing keys and shrinking queries alike; in place.

    Args:
        model: what `headed` made, trained or not.
        planted: `old_head_dim`; `bias`, its deviation in each layer; `outliers`, how many used pairs a head, and `scale`, by how much.
    """
    half, d = model.config.head_dim // 2, planted.old_head_dim
    idle = idle_pairs(d, 2 * half)
    slow = [half - 2 * half // d * (k + 1) for k in range(planted.outliers)]  # of the used pairs: there published outliers are
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer, deviation in zip(model.model.layers, planted.bias, strict=True):
            for proj, factor in ((layer.self_attn.k_proj, planted.scale), (layer.self_attn.q_proj, 1 / planted.scale)):
                proj.weight.view(-1, 2, half, proj.in_features)[:, :, slow] *= factor
                proj.bias.view(-1, 2, half)[:, :, slow] *= factor
            bias = layer.self_attn.k_proj.bias.view(-1, 2, half)
            bias[:, :, idle] = torch.randn(len(bias), 2, len(idle), generator=rng) * deviation


def _like(parent: Any, changes: dict[str, Any]) -> Any:
    """A new model of the parent's kind with these changes to its config."""
    kept = {key: value for key, value in parent.config.to_dict().items() if key not in ("architectures", "dtype", "transformers_version")}
    config = AutoConfig.for_model(kept.pop("model_type"), **kept | changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _pairs(value: torch.Tensor, d: int, head_dim: int, rng: torch.Generator) -> torch.Tensor:
    """Rows (heads * d, ...) as rows (heads * head_dim, ...): pair i at i * head_dim / d, noise in new pairs, nothing in idle ones."""
    old = value.view(-1, 2, d // 2, *value.shape[1:])
    new = torch.randn(len(old), 2, head_dim // 2, *value.shape[1:], generator=rng) * _NOISE
    new[:, :, idle_pairs(d, head_dim)] = 0
    new[:, :, :: head_dim // d] = old
    return new.flatten(0, 2)


def _turned(value: torch.Tensor, turn_Dd: torch.Tensor) -> torch.Tensor:
    """Rows (heads * d, ...) as rows (heads * D, ...)."""
    heads = value.reshape(-1, turn_Dd.shape[1], *value.shape[1:])
    return torch.einsum("Dd,hd...->hD...", turn_Dd, heads).flatten(0, 1)
