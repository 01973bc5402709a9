"""What a cell will need: device memory from its config, time from what past runs took. Light to import.

Memory is the weights and the K/V of one batch at its longest; activations and the copies of a hand-off come on top.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, final

from avpbench.config import largest_batch, model_folder, role_models, strategy_name
from avpbench.errors import RecordsError
from avpbench.files import read_json
from avpbench.store import Wanted

Values = dict[str, Any]
_PROMPT_TOKENS = 100  # an agent's role, its share of the template and the question, about
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_SETTINGS = ("context", "think_steps", "batch_size", "max_new_tokens", "max_agent_tokens", "question")
_FIELDS = {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}
_PHASES = ("ready", "quality", "latency", "fidelity")


@cache
def has_gpu() -> bool:
    """Whether the driver knows a GPU; asked without torch."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount()) > 0
    except pynvml.NVMLError:
        return False


def on_gpu(values: Values) -> bool:
    """Whether a cell would run on one."""
    device = str(values["device"])
    return has_gpu() if device == "auto" else device.startswith("cuda")


def memory_bytes(values: Values, lookup: Callable[[str], Values]) -> int | None:
    """Weights of every model of the chain and the caches of a batch; None where a model's shape is not at hand."""
    dtype = values["dtype"] if values["dtype"] != "auto" else "bfloat16" if on_gpu(values) else "float32"
    chain = values["chain"]
    mine = values["think_steps"] or values["max_agent_tokens"]
    tokens = values["context"] + chain * _PROMPT_TOKENS + (chain - 1) * mine + values["max_new_tokens"]
    weights: dict[str, int] = {}
    per_token = 0
    for name in role_models(values):
        model = lookup(name) if name else values["model"]
        shape = shape_of(model_folder(model), json.dumps(model["shape"]))
        if shape is None or dtype not in _BYTES:
            return None
        weights[str(name)] = shape.parameters * _BYTES[dtype]
        per_token = max(per_token, shape.values_per_token * _BYTES[dtype])
    batched = values["quality"]["enabled"] or values["fidelity"]["enabled"]  # what is timed is one sequence at a time
    caches: int = (largest_batch(values) if batched else 1) * tokens * per_token
    return sum(weights.values()) + caches


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """How large a model is."""

    parameters: int
    values_per_token: int  # keys and values of all layers


@lru_cache(maxsize=64)
def shape_of(folder: Path | None, shape: str) -> Shape | None:
    """From the model's own config where its files are at hand, else from its YAML (JSON); None where that does not tell."""
    fields = read_json(folder / "config.json") if folder else json.loads(shape)
    if not fields or not fields.keys() >= _FIELDS:
        return None
    hidden, layers, heads = fields["hidden_size"], fields["num_hidden_layers"], fields["num_attention_heads"]
    kv = fields.get("num_key_value_heads") or heads
    size = fields.get("head_dim") or hidden // heads
    bias = (heads + 2 * kv) * size if fields["model_type"] == "qwen2" else 0
    attention = 2 * hidden * heads * size + 2 * hidden * kv * size + bias
    layer = attention + 3 * hidden * fields["intermediate_size"] + 2 * hidden
    tied = fields.get("tie_word_embeddings", False)
    return Shape(layers * layer + hidden + fields["vocab_size"] * hidden * (1 if tied else 2), 2 * layers * kv * size)


@final
class Kind(NamedTuple):
    """What decides how long a cell takes: cells of one kind take the same time a unit."""

    models: tuple[str | None, ...]
    strategy: str
    chain: int
    settings: tuple[Any, ...]
    task: str

    @classmethod
    def of(cls, values: Values) -> Kind:
        """Of a plain config. Raises KeyError or TypeError for one of another version."""
        models = (values["model"]["name"], values["receiver"], *values["roles"].values())
        settings = tuple([values[key] for key in _SETTINGS])
        return cls(models, strategy_name(values["strategy"]), values["chain"], settings, values["task"]["_target_"])

    def likeness(self, other: Kind) -> tuple[bool, int]:
        """More for a kind that is more alike."""
        alike = sum(mine == theirs for mine, theirs in zip(self.settings, other.settings, strict=True))
        return self.chain == other.chain, (self.strategy == other.strategy) + alike


@final
@dataclass(frozen=True, slots=True)
class Past:
    """A run that ended: of what kind it was, and its seconds a unit of each phase."""

    kind: Kind
    gpu: bool
    rates: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> Past | None:
        """None where the folder holds no run that ended and said what it took."""
        try:
            meta = read_json(folder / "meta.json")
            sessions = [meta["spent"], *(earlier["spent"] or {} for earlier in meta["earlier"])]
            rates = {}
            for phase in _PHASES:
                took = [s[phase] for s in sessions if phase in s and s[phase]["count"] > 0]
                if took:
                    rates[phase] = sum(t["seconds"] for t in took) / sum(t["count"] for t in took)
            return cls(Kind.of(meta["config"]), not meta["identity"]["device"].startswith("cpu-"), rates) if rates else None
        except (RecordsError, KeyError, TypeError, AttributeError):
            return None


@final
class History:
    """Seconds that a cell will take, from the runs most like it: of the same model and kind of device, nothing less.

    The runs are read once something is left to do.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = folders
        self._rates: dict[tuple[Kind, bool], dict[str, float]] = {}

    @cached_property
    def _past(self) -> dict[tuple[Kind, bool], list[Past]]:
        found: dict[tuple[Kind, bool], list[Past]] = {}
        for folder in self._folders:
            if (past := Past.read(folder)) is not None:
                found.setdefault((past.kind, past.gpu), []).append(past)
        return found

    def seconds(self, values: Values, left: Wanted) -> float | None:
        """None where nothing like it was ever run, or how much is left is not known."""
        if left.nothing:
            return 0.0
        key = (Kind.of(values), on_gpu(values))
        if key not in self._rates:
            self._rates[key] = self._rates_of(*key)
        rates, total = self._rates[key], 0.0
        for phase, units in (("ready", 1), ("quality", left.samples), ("latency", left.blocks), ("fidelity", left.scores)):
            if units is None or (units and phase not in rates):
                return None
            total += units * rates[phase] if units else 0.0
        return total

    def _rates_of(self, wanted: Kind, gpu: bool) -> dict[str, float]:
        fit = [alike for (kind, on), alike in self._past.items() if on == gpu and kind.models == wanted.models]
        ranked = [(alike[0].kind.likeness(wanted), past) for alike in fit for past in alike]
        found = {}
        for phase in _PHASES:
            best = max((likeness for likeness, past in ranked if phase in past.rates), default=None)
            rates = [
                past.rates[phase] * (1 if phase == "ready" else wanted.chain / past.kind.chain)
                for likeness, past in ranked
                if phase in past.rates and likeness == best
            ]
            if rates:
                found[phase] = sum(rates) / len(rates)
        return found
