"""What cannot run, told from a plain config alone: nothing is loaded, built or imported for it.

A strategy's own fields are checked when it is built, and what only a model's files tell is found when they are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from avpbench.checks import flag, number, one_of, whole
from avpbench.config import model_folder, role_models, strategy_name
from avpbench.engine.sampling import Sampling
from avpbench.errors import ConfigError, IncompatibleModels
from avpbench.files import read_json
from avpbench.prompts import QUESTION_MODES
from avpbench.source import class_source

Values = Mapping[str, Any]


def check(values: Values, lookup: Callable[[str], Values]) -> None:
    """Raises ConfigError or IncompatibleModels for a cell that cannot run, as far as its config tells; `lookup`: a model by its name."""
    check_values(values)
    chain, strategy = values["chain"], values["strategy"]
    if chain > 1:
        source = class_source(strategy["_target_"])
        if source is not None:
            check_thinking(strategy_name(strategy), source.constants["thinks"], values)
            check_far(strategy_name(strategy), source.constants.get("far", True), values)
        if _knows_gold(strategy.get("controller")):
            check_gold(f"{strategy_name(strategy)} {strategy_name(strategy['controller'])}", values)
    models = [lookup(name) if name else values["model"] for name in role_models(values)]
    if chain > 1 and source is not None and "require_same_model" in source.names:
        _check_same(strategy_name(strategy), models)
    for model in models:
        _check_window(values, model)
    if (size := values["task"].get("size")) is not None:
        whole("task.size", size, 2)
        check_limit(values["limit"], size, strategy_name(values["task"]))


def check_values(values: Values) -> None:
    """Raises ConfigError for a value that no cell can have."""
    whole("seed", values["seed"], 0)
    whole("threads", values["threads"], 1, null="as many as pay")
    if not re.fullmatch(r"[\w.-]+", str(values["study"])):
        raise ConfigError(f"study must be a name of letters, digits and . _ -, got {values['study']!r}")
    against = values["latency"]["against"]
    if not isinstance(against, list):
        raise ConfigError(f"latency.against must be a list, got {against!r}; write latency.against=[{against}]")
    if not isinstance(values["results"], str):
        raise ConfigError(f"results must be a folder, got {values['results']!r}")
    one_of("resume", values["resume"], ("auto", "anyway", "never"))
    one_of("gates", values["gates"], ("fast", "full", "off"))
    one_of("isolate", "null" if values["isolate"] is None else values["isolate"], ("null", "process"))
    number("wait_s", values["wait_s"], 0, 86400)
    whole("max_failures", values["max_failures"], 1, null="no bound")
    if values["max_hours"] is not None:
        number("max_hours", values["max_hours"], 0, 1e6)
    check_settings(values)
    _check_path(values["model"])
    Sampling(values["temperature"], values["top_p"])


def _check_path(model: Values) -> None:
    """Raises ConfigError where somebody's weights would pass for an embedded model, with its name, its caps and its cell."""
    name, path = model["name"], model["path"]
    if path is not None and model["zoo"] is not None and str(model["zoo"]).rpartition("-")[0] == name:
        raise ConfigError(
            f"model.path={path}: {name} is embedded and has its weights with it; name the model that lies there, e.g. model=qwen1.5b"
            f" model.path={path} (python -m avpbench list models), or give one of your own a name: model.name=NAME"
        )


def check_settings(values: Values) -> None:
    """Raises ConfigError for a chain that cannot be."""
    for name in ("chain", "max_new_tokens", "max_agent_tokens"):
        whole(name, values[name], 1)
    if values["batch_size"] != "auto":
        whole("batch_size", values["batch_size"], 1, also=" or auto (the largest that fits)")
    for name in ("context", "think_steps"):
        whole(name, values[name], 0)
    whole("script_tokens", values["script_tokens"], 1, null="their own words")
    one_of("question", values["question"], QUESTION_MODES)
    flag("repeat", values["repeat"])
    one_of("donor", values["donor"], ("self", "other"))


def check_thinking(kind: str, thinks: bool, values: Values) -> None:
    """Raises ConfigError where agents think and the strategy hands over words."""
    if values["think_steps"] and values["chain"] > 1 and not thinks:
        raise ConfigError(
            f"strategy={kind} hands over words, and agents that think (think_steps={values['think_steps']}) say none;"
            " set think_steps=0, or choose strategy=raw or reprefill"
        )


def check_speaking(kind: str, speaks: bool, values: Values) -> None:
    """Raises ConfigError where agents speak and the strategy hands over latent steps."""
    if not values["think_steps"] and values["chain"] > 1 and not speaks:
        raise ConfigError(
            f"strategy={kind} hands over latent steps here (states=latent), and these agents speak (think_steps=0);"
            " set think_steps=10, or strategy.states=all"
        )


def check_far(kind: str, far: bool, values: Values) -> None:
    """Raises ConfigError where agents live in different processes and the strategy needs both models in one."""
    if not far and values["chain"] > 1 and strategy_name(values["link"]) == "remote":
        raise ConfigError(f"strategy={kind} needs both models in one process; choose link=direct, or strategy=projected")


def check_gold(label: str, values: Values) -> None:
    """Raises ConfigError where a strategy that is told the gold answer would be measured by more than its fidelity."""
    if values["quality"]["enabled"] or values["latency"]["enabled"]:
        raise ConfigError(
            f"{label} knows the gold continuation, which only the fidelity phase has: set quality=off latency=off fidelity=on"
        )


def check_limit(limit: object, size: int, task: str) -> None:
    """Raises ConfigError where the task has fewer problems than are asked for."""
    if limit is not None and not (type(limit) is int and 1 <= limit <= size):
        raise ConfigError(f"limit must be 1 to {size} (the problems of {task}) or null for all, got {limit!r}")


def _knows_gold(controller: Any) -> bool:
    """Whether a controller, or one within it, is told what the gold continuation attends to."""
    if not isinstance(controller, dict) or "_target_" not in controller:
        return False
    source = class_source(controller["_target_"])
    return (source is not None and "DEMAND" in source.names) or any(_knows_gold(part) for part in controller.values())


def _check_same(kind: str, models: list[Values]) -> None:
    """Weights at a path may be anybody's; any other two models that differ are not one."""
    whos = [{key: model[key] for key in ("repo", "revision", "zoo", "load", "seed", "shape")} for model in models if model["path"] is None]
    for who, model in zip(whos, (m for m in models if m["path"] is None), strict=True):
        if who != whos[0]:
            raise IncompatibleModels(
                f"{kind} hands K/V between {models[0]['name']} and {model['name']}, which is another model; choose strategy=text or"
                " text_full, or one model"
            )


def _check_window(values: Values, model: Values) -> None:
    window = _window(model_folder(model)) or (model["shape"] or {}).get("max_position_embeddings")
    if window is not None and values["context"] > window:
        raise ConfigError(f"context={values['context']} does not fit {model['name']}: its window holds {window}")


@lru_cache(maxsize=64)
def _window(folder: Path | None) -> int | None:
    """What a model's own files say; None where they are not at hand."""
    file = folder / "config.json" if folder else None
    if file is None or not file.is_file():
        return None
    found = read_json(file).get("max_position_embeddings")
    return int(found) if found is not None else None
