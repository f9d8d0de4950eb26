"""Weights on disk: safetensors with the model's sizes inside, and the published state dicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rwcnet_ref.build import build
from rwcnet_ref.config import THESIS, ModelConfig
from rwcnet_ref.model import Cascade


def shipped(name: str) -> Path:
    """Return the path of the weights of a preset inside the package."""
    return Path(str(resources.files("rwcnet_ref"))) / "weights" / f"{name}.safetensors"


def save_weights(cascade: Cascade, path: Path, **about: str) -> None:
    """Write all weights and stored averages, the sizes, and what is to be known about them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in cascade.state_dict().items()}
    config = cascade.config
    sizes = {"preset": config.name, "config": json.dumps(config.to_dict())}
    safetensors.torch.save_file(tensors, path, metadata={**about, **sizes})


def load_weights(path: Path) -> tuple[Cascade, dict[str, str]]:
    """Read weights into the model whose sizes they name.

    Returns
    -------
    Cascade
        In evaluation mode, on the CPU.
    dict
        What `save_weights` was told about them, and the preset's name.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it does not fit the sizes; all names that do not fit are in
        the message.
    ModuleNotFoundError
        If they are of the published network and MONAI is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about: dict[str, str] = dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error
    cascade = build(_config(path, about))
    found = safetensors.torch.load_file(path)
    wrong = _misfits(cascade.state_dict(), found)
    if wrong:
        raise ValueError(f"{path} does not fit preset {cascade.config.name}: {', '.join(wrong)}")
    cascade.load_state_dict(found)
    about.pop("config", None)  # the cascade has it
    return cascade.eval(), about


def load_published(stage1: Path, stage2: Path, stage3: Path) -> tuple[Cascade, dict[str, str]]:
    """Read the state dicts of the published code, one file a stage, the coarsest first.

    Returns
    -------
    Cascade
        Of preset `thesis`, in evaluation mode, on the CPU.
    dict
        What is known about the weights, as from `load_weights`.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, is no state dict, or does not fit; every key and shape that does not
        fit is in the message.
    ModuleNotFoundError
        If MONAI is not installed.
    """
    cascade = build(THESIS)
    for index, path in enumerate((stage1, stage2, stage3)):
        stage, found = cascade.stage(index), _state_dict(path)
        wrong = _misfits(stage.state_dict(), found)
        if wrong:
            raise ValueError(
                f"{path} does not fit stage {index + 1} of the published network: "
                f"{', '.join(wrong)}"
            )
        stage.load_state_dict(found)
    about = {
        "preset": THESIS.name,
        "licence": "not stated",
        "training_data": "not stated; a checkpoint of the published code",
    }
    return cascade.eval(), about


def _config(path: Path, about: dict[str, str]) -> ModelConfig:
    """Return the sizes that a file names."""
    if "config" not in about:
        raise ValueError(f"{path} does not name the sizes of its model: rwcnet-train writes them")
    try:
        return ModelConfig.from_dict(json.loads(about["config"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} names sizes that make no model ({error})") from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises a dozen types without a common base
        raise ValueError(f"{path} is not a file of weights that torch.save wrote") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(x, Tensor) for name, x in found.items()
    ):
        raise ValueError(f"{path} holds no plain state dict of tensors")
    return found


def _misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Name each tensor that is missing, unknown, or of another shape than expected."""

    def shape(tensors: Mapping[str, Tensor], name: str) -> str:
        return str(tuple(tensors[name].shape)) if name in tensors else "none"

    return [
        f"{name} (found {shape(found, name)}, wanted {shape(expected, name)})"
        for name in sorted(expected.keys() | found.keys())
        if shape(expected, name) != shape(found, name)
    ]
