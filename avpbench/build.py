"""Objects from configs: `_target_` is the registry."""

from __future__ import annotations

from inspect import signature
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from avpbench.errors import ConfigError, cause


def build(config: DictConfig) -> Any:
    """The object that this config targets, its parts built first; lists come as tuples.

    Raises ConfigError where there is no such class, it is unfinished, or it does not take these values; what its
    constructor raises comes out as it is.
    """
    return _built(OmegaConf.to_container(config, resolve=True))


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_built(one) for one in value)
    if not isinstance(value, dict):
        return value
    parts = {key: _built(one) for key, one in value.items()}
    return _made(str(parts.pop("_target_")), parts) if "_target_" in parts else parts


def _made(target: str, parts: dict[str, Any]) -> Any:
    try:
        kind = get_class(target)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"_target_: {target} names no class ({cause(error)}); write avpbench.GROUP.MODULE.CLASS") from error
    if missing := getattr(kind, "__abstractmethods__", None):
        raise ConfigError(f"{target} lacks {', '.join(sorted(missing))}; {kind.__mro__[1].__name__} says what each must do")
    wanted = signature(kind)
    try:
        wanted.bind(**parts)
    except TypeError as error:
        raise ConfigError(f"{target}{wanted} was given {', '.join(parts) or 'nothing'}: {error}; mend its YAML") from error
    return kind(**parts)
