"""Objects from configs: `_target_` is the registry."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig


def build(config: DictConfig) -> Any:
    """The object that this config targets. What its constructor raises comes out as it is, not wrapped."""
    return instantiate(config, _partial_=True)()
