"""Models grown from trained ones: as large again, or with wider heads, key outliers and a key bias as real Qwen2.5 models have.

`doubled` and `headed` keep what the parent computes, but for a little noise that training then puts to use (Net2Net,
arXiv 1511.05641). `plant` changes only what a cache holds: not one logit, but for rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import AutoConfig, AutoModelForCausalLM

_NOISE = 0.02  # deviation of the weights of new rotary pairs
_NEW = 0.3  # deviation of what a grown half writes, and of what the old half reads there, of the old half's own
_OUTPUTS = ("o_proj", "down_proj")


def doubled(parent: Any, num_layers: int) -> Any:
    """The parent with everything but the head size twice as wide, and `num_layers` layers; float32.

    The parent is one half of it. The other half of the heads and of the MLP is random and hardly heard; the other half of a
    state is random and small. New layers, evenly spaced, begin as copies whose outputs are zero. Two copies of the parent
    would learn the same: after 1,500 steps their weights still correlated at 0.99 (experiments/LOG.md).
    """
    old = parent.config
    wide = {key: 2 * getattr(old, key) for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")}
    wide |= {"num_hidden_layers": num_layers, "layer_types": None, "rms_norm_eps": old.rms_norm_eps * _shrunk()}
    model = _like(parent, wide)
    weights, own, rng = parent.float().state_dict(), model.state_dict(), torch.Generator().manual_seed(0)
    for name, target in own.items():
        words = name.split(".")
        fresh = False
        if words[1] == "layers":
            origin = int(words[2]) * old.num_hidden_layers // num_layers
            fresh = int(words[2]) > 0 and origin == (int(words[2]) - 1) * old.num_hidden_layers // num_layers
            words[2] = str(origin)
        kind = words[-2]
        target.copy_(_half(weights[".".join(words)], kind, target.shape, rng) * (not (fresh and kind in _OUTPUTS)))
    return model


def _shrunk() -> float:
    """The mean square of a state whose new half is that much smaller, over the old half's own."""
    return (1 + _NEW**2) / 2


def _half(value: torch.Tensor, kind: str, shape: torch.Size, rng: torch.Generator) -> torch.Tensor:
    """A weight of that shape whose first half, or quarter, is `value`."""
    if "norm" in kind:
        return torch.cat([value, value]) * math.sqrt(_shrunk())
    new: torch.Tensor = torch.randn(shape, generator=rng) * value.std()
    if kind in ("embed_tokens", "lm_head", *_OUTPUTS):
        new *= _NEW
    elif value.dim() == 2:
        new[: len(value), value.shape[1] :] *= _NEW
    new[tuple(slice(n) for n in value.shape)] = value
    return new


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
