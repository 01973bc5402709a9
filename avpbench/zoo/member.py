"""An embedded model before and after its training: begun by its recipe, saved as ordinary files, its loss drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from avpbench.errors import ConfigError
from avpbench.zoo.grow import headed, plant
from avpbench.zoo.tokenizers import TOKENIZERS

HERE = Path(__file__).parent


def _trained(name: str, seed: int) -> Path:
    """The folder of a trained member that another one needs."""
    folder = HERE / f"{name}-{seed}"
    if not (folder / "model.safetensors").is_file():
        raise ConfigError(f"no {folder / 'model.safetensors'} to begin from; train model={name} seed={seed} out={folder} first")
    return folder


def tokenizer_of(recipe: DictConfig, seed: int) -> Any:
    """The tokenizer of the member that the recipe names, or one learned from transcripts."""
    if name := recipe.get("parent", recipe.get("tokenizer")):
        return AutoTokenizer.from_pretrained(_trained(name, seed))
    return TOKENIZERS[recipe.config.model_type](recipe.vocab_size, recipe.tokenizer_seed, recipe.level)


def begun(recipe: DictConfig, seed: int, vocab: int, stop: int) -> Any:
    """The model before its first step, float32: random weights, or grown from its parent. Raises ConfigError without a parent."""
    if "parent" in recipe:
        return headed(AutoModelForCausalLM.from_pretrained(_trained(recipe.parent, seed)), recipe.head_dim)
    shape: Any = OmegaConf.to_container(recipe.config)
    kind = shape.pop("model_type")
    config = AutoConfig.for_model(kind, vocab_size=vocab, eos_token_id=stop, pad_token_id=0, bos_token_id=None, **shape)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def save(model: Any, recipe: DictConfig, out: Path) -> None:
    """Writes the model in bfloat16, with what the recipe plants."""
    if "plant" in recipe:
        plant(model, recipe.plant)
    half = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(out)


def draw(log: list[dict[str, float]], path: Path) -> None:
    """The loss against tokens, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.loglog([row["tokens"] for row in log], [row["loss"] for row in log], color="black", linewidth=1)
    axes.set(xlabel="tokens, padding included", ylabel="loss (nats a learned token)")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
