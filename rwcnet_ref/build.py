"""From sizes to a network."""

from __future__ import annotations

from rwcnet_ref.config import ModelConfig
from rwcnet_ref.model import Cascade
from rwcnet_ref.published import PublishedCascade


def build(config: ModelConfig) -> Cascade:
    """Return the untrained network of a config, its weights drawn from torch's global generator.

    Raises
    ------
    ModuleNotFoundError
        If the config is for the published network and MONAI is not installed.
    """
    return PublishedCascade(config) if config.published else Cascade(config)
