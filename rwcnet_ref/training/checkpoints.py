"""The files of a run: what goes on after an interruption, and what is kept in the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from rwcnet_ref.checkpoint import load_weights, save_weights
from rwcnet_ref.model import Cascade
from rwcnet_ref.pair import Pair
from rwcnet_runtime.errors import InputError

# Settings that change when something is written, or where it is computed, but not what is learned.
_FREE = ("validate_every", "save_every", "device")


class RunFolder:
    """Names and writes the files of a run.

    Attributes
    ----------
    path
        The folder; made with the first file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def weights(self) -> Path:
        """Weights of the finished cascade, for rwcnet-export."""
        return self.path / "weights.safetensors"

    def checkpoint(self, index: int) -> Path:
        """All that stage `index` needs to go on."""
        return self.path / f"stage{index + 1}.ckpt"

    def best(self, index: int) -> Path:
        """Best weights of stage `index`, those of the stages below included."""
        return self.path / f"stage{index + 1}.best.safetensors"

    def log(self, index: int) -> Path:
        """Metrics of stage `index`, a line of JSON a validation."""
        return self.path / f"stage{index + 1}.jsonl"

    def events(self, index: int) -> Path:
        """Folder of TensorBoard's files of stage `index`."""
        return self.path / "events" / f"stage{index + 1}"

    @property
    def settings(self) -> Path:
        """What the run was told."""
        return self.path / "settings.json"

    def check(self, given: Mapping[str, Any]) -> None:
        """Make sure that the folder is free, or holds a training of these settings.

        Raises
        ------
        InputError
            If it is a file, holds a training of other settings, or its settings.json is damaged.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: choose a folder with -o")
        if self.settings.is_file():
            # What JSON makes of it, so that tuples and lists are not different.
            now = json.loads(_json(given))
            other = _difference(self._claimed(), now)
            if other:
                raise InputError(
                    f"{self.path} holds a training with another {other}: choose another folder "
                    "with -o, or go back to the settings in its settings.json"
                )

    def claim(self, given: Mapping[str, Any]) -> None:
        """Make the folder that of a training with these settings."""
        if not self.settings.is_file():
            self.path.mkdir(parents=True, exist_ok=True)
            _replace(self.settings, lambda path: path.write_text(_json(given)))

    def _claimed(self) -> dict[str, Any]:
        try:
            found = json.loads(self.settings.read_text())
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("training", {}), dict):
            raise InputError(
                f"{self.settings} is damaged: choose another folder with -o, or delete it if the "
                "settings are still the same"
            )
        return found

    def save_state(self, index: int, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of a stage."""
        _replace(self.checkpoint(index), lambda path: torch.save(dict(state), path))

    def load_state(self, index: int, *, mapped: bool = False) -> dict[str, Any] | None:
        """Read the checkpoint of a stage to the CPU, None if there is none yet.

        Parameters
        ----------
        index
            The stage.
        mapped
            Leave the tensors on disk, for whoever wants to know the rest.

        Raises
        ------
        InputError
            If it is damaged.
        """
        path = self.checkpoint(index)
        if not path.is_file():
            return None
        try:
            state: Any = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
        except OSError:
            raise
        except Exception as error:  # torch's unpickler raises a dozen types without a common base
            raise self.damaged(index) from error
        if not isinstance(state, dict) or "step" not in state:
            raise self.damaged(index)
        return state

    def damaged(self, index: int) -> InputError:
        """Return what to say of a checkpoint that cannot be gone on from."""
        return InputError(
            f"{self.checkpoint(index)} is damaged or of another model: delete it to train the "
            "stage anew, or choose another folder with -o"
        )

    def load_best(self, index: int) -> Cascade:
        """Read the best weights of a trained stage; `InputError` if they are damaged or gone."""
        path = self.best(index)
        try:
            cascade, _ = load_weights(path)
        except (FileNotFoundError, ValueError) as error:
            raise InputError(
                f"{path} is damaged or gone: delete {self.checkpoint(index).name} as well to train "
                "the stage anew, or choose another folder with -o"
            ) from error
        return cascade

    def save_weights(self, path: Path, cascade: Cascade, about: Mapping[str, str]) -> None:
        """Write weights to one of this folder's names."""
        _replace(path, lambda temporary: save_weights(cascade, temporary, **about))

    def save_batch(self, index: int, pairs: list[Pair], **position: float) -> Path:
        """Write the batch of a step that went wrong, and return where."""
        path = self.path / f"stage{index + 1}.nan.pt"
        batch = [{f.name: getattr(pair, f.name) for f in fields(pair)} for pair in pairs]
        _replace(path, lambda temporary: torch.save({**position, "pairs": batch}, temporary))
        return path


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, default=str) + "\n"


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())  # a rename can reach the disk before what it renames
    temporary.replace(path)


def _difference(before: dict[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the first setting that differs, None if only what is free to change does."""
    for section in sorted({*before, *now}):
        a, b = before.get(section, {}), now.get(section, {})
        if section == "training":
            a, b = ({n: v for n, v in x.items() if n not in _FREE} for x in (a, b))
        if a != b:
            if not (isinstance(a, dict) and isinstance(b, dict)):
                return section
            names = sorted(n for n in {*a, *b} if a.get(n) != b.get(n))
            return f"{section}.{names[0]}"
    return None
