"""All stages of a training, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch

from rwcnet_ref.build import build
from rwcnet_ref.checkpoint import load_weights
from rwcnet_ref.model import Cascade
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.loop import Training
from rwcnet_ref.training.settings import Settings
from rwcnet_ref.training.sources import open_data
from rwcnet_runtime.errors import BackendError, InputError


class Listener(Protocol):
    """Who is told how a training goes."""

    def begin(self, training: Training) -> None:
        """Take note that a stage begins or goes on."""

    def progress(self, step: int, loss: float) -> None:
        """Take note of a step."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Take note of a validation."""


def choose_device(name: str) -> torch.device:
    """Return a device that is there.

    Parameters
    ----------
    name
        auto (CUDA where there is any), cpu, cuda or cuda:N.

    Raises
    ------
    BackendError
        If it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"device {name} is not there, PyTorch sees {torch.cuda.device_count()} CUDA devices: "
            "choose cpu or auto"
        )
    return device


def train(
    settings: Settings,
    folder: RunFolder,
    listener: Listener,
    stage: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train the stages of a cascade, each on top of the best weights of those below it.

    With weights to start from, a stage can also be trained before those below it are: on top of
    the weights that they start from.

    Parameters
    ----------
    settings
        What to do.
    folder
        Where everything is written; what is there already is not done again.
    listener
        Told how it goes.
    stage
        Index of the only stage to train; all by default.
    stop
        Asked before every step.

    Returns
    -------
    bool
        False if it was stopped.

    Raises
    ------
    InputError, BackendError
        If settings, data or folder do not fit each other, a stage below is not trained, the
        device is not there, or a file in the folder is damaged. Nothing of the stage at hand is
        written then; those before it stay.
    NotFiniteError
        As `Training.run` does.
    """
    folder.check(settings.given)
    device = choose_device(settings.run.device)
    data = open_data(settings, device)
    count = len(settings.stages)
    for index in range(count) if stage is None else [stage]:
        if _trained(folder, settings, index):
            continue
        cascade = _begin(settings, folder, index).to(device)
        training = Training(cascade, index, settings, data(cascade, index), folder)
        listener.begin(training)
        if not training.run(stop, listener.progress, listener.report):
            return False
    if _trained(folder, settings, count - 1):
        cascade = _assemble(folder, settings, range(count))
        folder.save_weights(folder.weights, cascade, settings.about)
    return True


def _trained(folder: RunFolder, settings: Settings, index: int) -> bool:
    state = folder.load_state(index, mapped=True)
    return state is not None and state["step"] == settings.stages[index].steps


def _assemble(folder: RunFolder, settings: Settings, stages: Iterable[int]) -> Cascade:
    """Return the cascade that training began with, the trained ones of `stages` put in."""
    if settings.start is None:
        torch.manual_seed(settings.run.seed)
        cascade = build(settings.model)
    else:
        cascade, _ = load_weights(settings.start)
    for n in stages:
        if _trained(folder, settings, n):
            best = folder.load_best(n).stage(n).state_dict()
            cascade.stage(n).load_state_dict(best)
        elif settings.start is None:
            raise InputError(
                f"stage {n + 1} is not trained in {folder.path}: train it first, or give --stage "
                "all"
            )
    return cascade


def _begin(settings: Settings, folder: RunFolder, index: int) -> Cascade:
    """Return the cascade that the training of a stage begins with."""
    cascade = _assemble(folder, settings, range(index))
    if settings.start is None and index:
        learned, start = (cascade.stage(n).state_dict() for n in (index - 1, index))
        if {n: x.shape for n, x in learned.items()} == {n: x.shape for n, x in start.items()}:
            # What registers at one resolution is a good start at the next.
            cascade.stage(index).load_state_dict(learned)
    return cascade
