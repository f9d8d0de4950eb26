"""Weights on disk: safetensors, with the model's sizes checked when they are read."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import safetensors
import safetensors.torch

from rwcnet_ref.config import PRESETS
from rwcnet_ref.model import Cascade


def shipped(name: str) -> Path:
    """Return the path of the weights of a preset inside the package."""
    return Path(str(resources.files("rwcnet_ref"))) / "weights" / f"{name}.safetensors"


def save_weights(cascade: Cascade, path: Path, **about: str) -> None:
    """Write all weights and stored averages, and what is to be known about them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in cascade.state_dict().items()}
    safetensors.torch.save_file(tensors, path, metadata={**about, "preset": cascade.config.name})


def load_weights(path: Path) -> tuple[Cascade, dict[str, str]]:
    """Read weights into the preset they name.

    Returns
    -------
    Cascade
        In evaluation mode, on the CPU.
    dict
        What `save_weights` was told about them.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it does not fit the preset; all names that do not fit are in
        the message.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about: dict[str, str] = dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error
    if about.get("preset") not in PRESETS:
        raise ValueError(
            f"{path} is for preset {about.get('preset')!r}, known are {sorted(PRESETS)}"
        )
    cascade = Cascade(PRESETS[about["preset"]])
    expected, found = cascade.state_dict(), safetensors.torch.load_file(path)
    wrong = sorted(
        name
        for name in expected.keys() | found.keys()
        if name not in expected or name not in found or expected[name].shape != found[name].shape
    )
    if wrong:
        raise ValueError(f"{path} does not fit preset {about['preset']}: {', '.join(wrong)}")
    cascade.load_state_dict(found)
    return cascade.eval(), about
