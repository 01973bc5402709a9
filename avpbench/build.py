"""Objects from configs: `_target_` is the registry."""

from __future__ import annotations

from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf


def build(config: DictConfig) -> Any:
    """The object that this config targets, its parts built first; lists come as tuples. What a constructor raises comes out as it is."""
    return _built(OmegaConf.to_container(config, resolve=True))


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_built(one) for one in value)
    if not isinstance(value, dict):
        return value
    parts = {key: _built(one) for key, one in value.items()}
    return get_class(parts.pop("_target_"))(**parts) if "_target_" in parts else parts
