"""From sizes to a network."""

from __future__ import annotations

from rwcnet_ref.config import ModelConfig
from rwcnet_ref.model import Cascade


def build(config: ModelConfig) -> Cascade:
    """Return the untrained network of a config, its weights drawn from torch's global generator."""
    return Cascade(config)
