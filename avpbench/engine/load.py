"""Where models come from: the hub, a local folder, the embedded zoo, or dummy weights in a real shape."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final
from weakref import WeakSet

import torch

from avpbench import digest
from avpbench.config import ZOO
from avpbench.core import ModelSpec
from avpbench.engine.cache import refuse_partial_attention
from avpbench.engine.engine import Engine
from avpbench.engine.identity import spec, weights_id
from avpbench.engine.room import require_room
from avpbench.errors import ConfigError, NotFound, cause
from avpbench.estimate import shape_of
from avpbench.files import read_json

_SCORES = 1.5  # standard deviation of attention's scores under random weights
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WAYS_ON = "Ways on: log in or connect (`hf auth login`) for the hub; model.path=DIR; model.load=dummy for timing with random weights"
_TOKENIZER_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
_FILES = [*_TOKENIZER_FILES, "*.safetensors"]
_LOADED: WeakSet[Engine] = WeakSet()


@final
@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is looked for.

    `path` before `zoo` before `repo`. `load` is `weights`, or `dummy` for random weights of `shape` (JSON: the fields
    of its configuration), drawn from `seed`; then `tokenizer` is a folder or a hub name, or None for the embedded one.
    """

    name: str
    repo: str | None = None
    revision: str = "main"
    path: str | None = None
    zoo: str | None = None
    load: str = "weights"
    tokenizer: str | None = None
    shape: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.load not in ("weights", "dummy"):
            raise ConfigError(f"model.load must be weights or dummy, got {self.load!r}")


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises ConfigError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N; got {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={device}: no CUDA device is visible; use device=cpu or device=auto")
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype must be auto, {', '.join(_DTYPES)}; got {dtype!r}")
    return _DTYPES[dtype]


def locate(source: Source, weights: bool = True) -> tuple[Path | None, str | None]:
    """The folder that holds the model (without `weights`: at least its tokenizer), and the hub's commit where there is one.

    (None, None) for dummy weights. Raises NotFound, saying what was looked for and where.
    """
    if source.load == "dummy":
        if source.shape is None:
            raise ConfigError(f"model.load=dummy: model {source.name} names no shape; choose a hub model, e.g. model=qwen0.5b")
        return None, None
    if source.path is not None:
        return _folder(Path(source.path).expanduser()), None
    if source.zoo is not None:
        folder = ZOO / source.zoo
        if not folder.is_dir():
            known = sorted(p.parent.name for p in ZOO.glob("*/config.json"))
            raise NotFound(f"no embedded model {source.zoo}; there are {', '.join(known)}")
        return folder, None
    assert source.repo is not None, f"model {source.name} names neither repo nor zoo"
    return _from_hub(source.repo, source.revision, _FILES if weights else _TOKENIZER_FILES)


def _folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise NotFound(
            f"no model: looked for {folder / 'config.json'}; model.path= must name a folder as save_pretrained writes it. {WAYS_ON}"
        )
    return folder


def _require_shipped(folder: Path, identity: str) -> None:
    """Raises ConfigError where an embedded model's weights are not those that its training left."""
    pinned = read_json(folder / "training.json")["weights"]
    if identity != pinned:
        raise ConfigError(
            f"the weights in {folder} are not the shipped ones (digest {identity}, wanted {pinned}); reinstall avpbench, or use"
            " them as a model of their own: model.path=DIR model.name=NAME"
        )


def _from_hub(repo: str, revision: str, files: list[str]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=files))
    except Exception as error:  # the hub's client raises many kinds, all meaning that it could not be had
        raise NotFound(
            f"no model: looked for {repo} at revision {revision} on the hub and in its cache ({cause(error)}). {WAYS_ON}"
        ) from error
    return folder, folder.name


def spec_of(source: Source, dtype: torch.dtype) -> ModelSpec:
    """Who the model is, from its files alone: no weight is in memory afterwards. Raises NotFound, IncompatibleModels, ConfigError."""
    folder, _ = locate(source)
    config = _config(source, folder)
    refuse_partial_attention(config)
    identity = "dummy-" + digest.of_text(f"{source.shape}/{source.seed}") if folder is None else weights_id(folder)
    return spec(source.name, config, tokenizer_of(source)[0], identity, dtype)


def _config(source: Source, folder: Path | None) -> Any:
    from transformers import AutoConfig

    if folder is not None:
        return AutoConfig.from_pretrained(folder)
    assert source.shape is not None
    shape = json.loads(source.shape)
    return AutoConfig.for_model(shape.pop("model_type"), **shape)


@final
class Kept:
    """The engines of the last cell, for the next one that asks for the same model, dtype and device.

    What the next cell does not ask for is let go before anything new is loaded: two models need not fit at once.
    """

    def __init__(self) -> None:
        self._engines: dict[tuple[Source, ModelSpec, torch.device], Engine] = {}

    def load(self, sources: Sequence[Source], device: torch.device, dtype: torch.dtype) -> list[Engine]:
        """An engine a source; equal sources share one. Raises NotFound, IncompatibleModels, ConfigError, OutOfMemory."""
        wanted = [(source, spec_of(source, dtype), device) for source in sources]
        if any(key not in wanted for key in self._engines):
            self._engines = {key: engine for key, engine in self._engines.items() if key in wanted}
            gc.collect()  # an engine's model refers to itself
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        for key in wanted:
            if key not in self._engines:
                self._engines[key] = load(key[0], device, dtype)
        return [self._engines[key] for key in wanted]

    def holds(self, sources: Sequence[Source], device: torch.device, dtype: torch.dtype) -> bool:
        """Whether nothing of this is to be loaded."""
        return all((source, spec_of(source, dtype), device) in self._engines for source in sources)


KEPT = Kept()


def load(source: Source, device: torch.device, dtype: torch.dtype) -> Engine:
    """A fresh engine. Raises NotFound, IncompatibleModels, ConfigError, OutOfMemory."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    who = spec_of(source, dtype)
    folder, commit = locate(source)
    require_room(source.name, shape_of(folder, source.shape or "null"), device, dtype)
    tokenizer, notes = tokenizer_of(source)
    config = _config(source, folder)
    if folder is None:
        torch.manual_seed(source.seed)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        _attend(model)
        notes = (f"dummy weights (random, seed {source.seed}): timing only, answers mean nothing", *notes)
    else:
        if folder.parent == ZOO:
            _require_shipped(folder, who.weights_id)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(device)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise ConfigError(f"the tokenizer of {source.name} has {len(tokenizer)} tokens, its embedding fewer; name its own tokenizer")
    engine = Engine(model.eval(), tokenizer, who, config.max_position_embeddings, commit, notes)
    _LOADED.add(engine)
    return engine


def _attend(model: Any) -> None:
    """Widens random queries and keys until attention's scores have a standard deviation of `_SCORES`.

    As drawn, attention is so flat that one wrong position is lost in bfloat16's rounding (docs/decisions.md).
    """
    width = model.config.initializer_range * math.sqrt(model.config.hidden_size)  # of a query's elements, inputs of norm sqrt(hidden)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(math.sqrt(_SCORES) / width)


def loaded(who: ModelSpec) -> Engine | None:
    """The engine of this model, if one is in this process's memory."""
    return next((engine for engine in _LOADED if engine.spec == who), None)


@lru_cache(maxsize=8)
def tokenizer_of(source: Source) -> tuple[Any, tuple[str, ...]]:
    """The tokenizer alone, without weights, and what a reader must know of it. Raises NotFound, ConfigError."""
    from transformers import AutoTokenizer

    folder, _ = locate(source, weights=False)
    where: str | Path = source.tokenizer or folder or ZOO / "tiny-0"
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise NotFound(
            f"no tokenizer: looked for {where} ({cause(error)}); model.tokenizer=DIR names another, null is the embedded one"
        ) from error
    if tokenizer.chat_template is None:
        raise ConfigError(f"the tokenizer in {where} has no chat template; agents need one (an instruct model's)")
    borrowed = folder is None and source.tokenizer is None
    return tokenizer, ("tokenizer of the embedded model (model.tokenizer= names another)",) if borrowed else ()
