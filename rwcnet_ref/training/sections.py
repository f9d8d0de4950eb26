"""The sections of a training's settings, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from rwcnet_ref.checkpoint import load_weights, shipped
from rwcnet_ref.config import PRESETS, ModelConfig
from rwcnet_runtime.errors import InputError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Model:
    """Section ``[model]``: a preset, and what is to be different in it.

    Attributes
    ----------
    preset
        Name in `rwcnet_ref.config.PRESETS`; `base` by default.
    weights
        Weights to start from: a file, or the name of weights inside the package. Their sizes are
        the model's, so nothing else is given then.
    resolutions
        The stages to keep, by their grids, such as ``[1]`` for a single resolution; all by default.
    correlate
        False stacks features instead of correlating them.
    steps
        Recurrent steps, of every stage or one number a stage.
    velocity
        Whether each stage's flow is integrated from a stationary velocity.
    """

    __pydantic_config__ = _STRICT

    preset: str | None = None
    weights: Path | None = None
    resolutions: tuple[int, ...] | None = None
    correlate: bool = True
    steps: Count | tuple[Count, ...] | None = None
    velocity: bool = False

    def __post_init__(self) -> None:
        if self.weights is not None and replace(self, weights=None) != Model():
            raise ValueError("weights bring their own sizes: leave the other settings out")

    def start(self, folder: Path) -> Path | None:
        """Return the file of weights to start from; relative to `folder`, if not in the package."""
        if self.weights is None:
            return None
        inside = shipped(str(self.weights))
        return inside if inside.is_file() else folder / self.weights.expanduser()

    def config(self, folder: Path) -> ModelConfig:
        """Return the sizes of the model; `InputError` if they cannot be."""
        start = self.start(folder)
        if start is not None:
            try:
                return load_weights(start)[0].config
            except (FileNotFoundError, ValueError) as error:
                raise InputError(f"model.weights: {error}; give weights of this toolkit") from error
        name = self.preset or "base"
        if name not in PRESETS:
            raise InputError(
                f"model.preset is {name!r}: choose one of {', '.join(sorted(PRESETS))}"
            )
        preset = PRESETS[name]
        stages = {stage.grid: stage for stage in preset.stages}
        kept = self.resolutions or tuple(stages)
        if not set(kept) <= stages.keys():
            raise InputError(
                f"model.resolutions is {list(kept)}: choose from {list(stages)} of {name}"
            )
        steps: tuple[int | None, ...]
        steps = self.steps if isinstance(self.steps, tuple) else (self.steps,) * len(kept)
        if len(steps) != len(kept):
            raise InputError(
                f"model.steps holds {len(steps)} numbers, the model has {len(kept)} stages: give "
                "one number for all, or one a stage"
            )
        changed = (
            replace(
                stages[resolution],
                correlate=self.correlate,
                velocity=self.velocity,
                steps=count or stages[resolution].steps,
            )
            for resolution, count in zip(kept, steps, strict=True)
        )
        try:
            return replace(preset, stages=tuple(changed))
        except ValueError as error:
            raise InputError(f"section model makes no model: {error}") from error


@dataclass(frozen=True)
class SyntheticData:
    """Section ``[data]`` of kind ``synthetic``: label maps and shapes.

    Attributes
    ----------
    maps
        Folder of SynthSeg's label maps; shapes alone without it.
    held_out
        Heads kept for validation, the last of the sorted files; at least two, since some pairs are
        of two heads.
    validation
        Pairs drawn for validation.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["synthetic"]
    maps: Path | None = None
    held_out: Annotated[int, Field(ge=2)] = 2
    validation: Count = 8


@dataclass(frozen=True)
class Learn2RegData:
    """Section ``[data]`` of kind ``learn2reg``.

    Attributes
    ----------
    file
        The dataset's JSON; its validation pairs validate.
    intensity
        Range that becomes 0..1; percentiles of each image, as in inference, by default.
    validation
        Validation pairs used, the first ones; all by default.
    cache_gb
        Memory for volumes already read.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["learn2reg"]
    file: Path
    intensity: tuple[float, float] | None = None
    validation: Count | None = None
    cache_gb: NotNegative = 8.0


@dataclass(frozen=True)
class PairsData:
    """Section ``[data]`` of kind ``pairs``: CSV files as rwcnet-eval reads them.

    Attributes
    ----------
    file, validation_file
        Pairs to train on and to validate on.
    folder
        What the paths in them are relative to; the folder of each file by default.
    intensity, validation, cache_gb
        As in `Learn2RegData`.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["pairs"]
    file: Path
    validation_file: Path
    folder: Path | None = None
    intensity: tuple[float, float] | None = None
    validation: Count | None = None
    cache_gb: NotNegative = 8.0


Data = SyntheticData | Learn2RegData | PairsData


@dataclass(frozen=True)
class Run:
    """What section ``[training]`` says of all stages together.

    Attributes
    ----------
    seed
        All random numbers follow from it.
    device
        auto, cpu or cuda[:N].
    precision
        fp32, or bf16 autocast while training. On the CPU, PyTorch 2.13 has wrong bf16 gradients of
        3^3 convolutions where a grid is two voxels wide: the published encoders have such grids in
        crops and patches of 16 voxels.
    ema
        Largest decay of the averaged weights, which are validated and kept; 0 keeps the last.
    optimiser
        adam or adamw.
    validate_every, save_every
        Steps between.
    best
        Which measure chooses the weights that are kept: error, dice, tre_mm or validation_loss; by
        default the first of them that the validation pairs allow.
    """

    __pydantic_config__ = _STRICT

    seed: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    optimiser: Literal["adam", "adamw"] = "adam"
    validate_every: Count = 1000
    save_every: Count = 500
    best: Literal["error", "dice", "tre_mm", "validation_loss"] | None = None


@dataclass(frozen=True)
class Loss:
    """One loss: its weight, and the share of the steps after which it counts."""

    __pydantic_config__ = _STRICT

    weight: NotNegative
    after: Share = 0.0


@dataclass(frozen=True)
class StageSettings:
    """How one stage is trained: ``[training]`` for all stages, ``[[stages]]`` for one.

    Attributes
    ----------
    steps
        Optimiser steps; by default the thesis's 30,000, 45,000 and 60,000 at 1/4, 1/2 and 1.
    batch
        Pairs a step.
    learning_rate
        Of the optimiser.
    rate
        constant, or cosine: falling to zero over the steps.
    warm_up
        Steps over which the rate rises.
    clip
        Largest norm of the gradient; not limited by default.
    decay
        Weight of a recurrent step's loss relative to that of the step after it.
    short
        Share of the steps in which the recurrence is cut to two steps: following one match comes
        first.
    frozen_averages
        Share of the steps after which batch normalisations use their stored averages, as they will
        at inference.
    size, small
        Of synthetic pairs: edge of the cubic crops in voxels of the stage, and the share of steps
        with half the edge and twice the batch.
    amplitude, shapes, two_heads, same_contrast
        Of synthetic pairs, see `rwcnet_ref.pairs`: largest displacement in mm, share of shapes, of
        pairs of two heads, and of pairs of one contrast.
    finer
        Of synthetic pairs: share of the steps whose pairs have a finer resolution than the stage,
        with displacements of as many voxels. It makes weights that are a good start for the stages
        to come.
    easy
        Of synthetic pairs: share of the steps over which they grow from easy (shapes, textured, of
        one contrast and one scanner) to what they are to be.
    losses
        From the section ``[losses]``, unless the stage has its own.
    """

    __pydantic_config__ = _STRICT

    steps: Count
    size: Count
    amplitude: Positive
    batch: Count = 1
    learning_rate: Positive = 3e-4
    rate: Literal["constant", "cosine"] = "constant"
    warm_up: Annotated[int, Field(ge=0)] = 0
    clip: Positive | None = None
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    short: Share = 0.0
    frozen_averages: Share = 1.0
    small: Share = 0.0
    shapes: Share = 0.3
    two_heads: Share = 0.3
    same_contrast: Share = 0.75
    finer: Share = 0.0
    easy: Share = 0.0
    losses: Mapping[str, Loss] = field(default_factory=dict)

    def weights(self, share: float = 1.0) -> dict[str, float]:
        """Return the losses that count when `share` of the steps are done."""
        return {
            name: loss.weight
            for name, loss in self.losses.items()
            if loss.weight and loss.after <= share
        }
