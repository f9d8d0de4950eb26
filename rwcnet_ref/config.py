"""The sizes of a model: frozen, validated, and the only place where numbers live."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StageConfig:
    """Sizes of the recurrent network of one resolution.

    Attributes
    ----------
    resolution
        Divisor of the image size at which this stage sees the images: 4 is quarter resolution.
    stride
        Voxels of those images between two points of the grid that features, hidden state and
        updates live on, 1 or 2. With 2 the encoders see every voxel and the recurrence costs an
        eighth; the flow is brought to every voxel at the end of each step.
    steps
        Unrolled GRU steps.
    radius
        Search radius of the local correlation, in voxels of this stage.
    features
        Channels of the feature maps that are correlated.
    projected
        Channels the (2 radius + 1)^3 correlations are projected to.
    encoder
        Width of the convolutions in both encoders.
    motion
        Channels of the motion encoder's output, the three of the flow included.
    hidden
        Channels of the GRU's hidden state.
    patch
        Largest edge of a patch in voxels of this stage, halo included; None runs the image whole.
    halo
        Voxels a patch reads beyond the part of the flow it answers for.
    parts
        Patches along each axis where no `patch` edge is given: 1 runs the image whole.
    correlate
        Whether features are correlated. False stacks them instead, for ablation (Sivan 2022,
        table 3.3).
    inherit
        Whether the hidden state starts from that of the stage below too, or from the fixed image
        alone. The first stage has nothing to inherit. At full resolution a state that is handed up
        is the largest array of all.
    velocity
        Whether what the steps of the stage add up to is a stationary velocity, integrated by
        scaling and squaring into its flow; within each patch, where there are several.
    """

    resolution: int
    steps: int
    radius: int
    features: int
    projected: int
    encoder: int
    motion: int
    hidden: int
    stride: int = 1
    patch: int | None = None
    halo: int = 0
    parts: int = 1
    correlate: bool = True
    inherit: bool = True
    velocity: bool = False

    def __post_init__(self) -> None:
        if self.resolution < 1 or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution is {self.resolution}; it must be a power of two")
        for name in ("steps", "radius", "features", "projected", "encoder", "hidden", "parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.motion <= 3:
            raise ValueError(
                f"motion is {self.motion}; three channels carry the flow, so 4 or more"
            )
        if self.stride not in (1, 2):
            raise ValueError(f"stride is {self.stride}; it must be 1 or 2")
        if self.stride > 1 and (self.patch is not None or self.parts > 1):
            raise ValueError("a stage with a stride runs the image whole; leave patches out")
        if self.halo < 0 or (self.patch is not None and self.patch <= 2 * self.halo):
            raise ValueError(
                f"a patch of {self.patch} voxels leaves nothing inside a halo of {self.halo}"
            )

    @property
    def grid(self) -> int:
        """Divisor of the image size that gives the grid of the recurrence."""
        return self.resolution * self.stride


@dataclass(frozen=True)
class ModelConfig:
    """A named coarse-to-fine cascade of stages.

    Attributes
    ----------
    name
        Preset name, lower case.
    stages
        From the coarsest to the finest; the grid of each is twice as fine as the one before.
    published
        Whether the network and the chain of stages are the published ones, peculiarities included
        (`rwcnet_ref.published`), instead of this toolkit's (`rwcnet_ref.model`).
    """

    name: str
    stages: tuple[StageConfig, ...]
    published: bool = False

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a model needs at least one stage")
        grids = [stage.grid for stage in self.stages]
        if grids != [grids[0] >> n for n in range(len(grids))]:
            raise ValueError(f"grids are {grids}; each must halve the one before")
        if self.stages[-1].resolution != 1:
            raise ValueError("the last stage must see the images in full, at resolution 1")
        if self.published and any(stage.stride > 1 for stage in self.stages):
            raise ValueError("the published network has no stride; leave it out")
        if self.published and not all(stage.inherit for stage in self.stages):
            raise ValueError("the published stages hand their hidden state up; leave inherit out")
        strides = [stage.stride for stage in self.stages]
        if strides != sorted(strides, reverse=True):
            raise ValueError(f"strides are {strides}; none may be larger than the one before")

    def inherits(self, index: int) -> bool:
        """Whether stage `index` takes the hidden state of the one below; False beyond the last."""
        return 0 < index < len(self.stages) and self.stages[index].inherit

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this, in voxels."""
        return math.lcm(*(self.unit * stage.grid * stage.parts for stage in self.stages))

    @property
    def unit(self) -> int:
        """What a stage runs on, the image or a patch, must be multiples of this, in its voxels."""
        return 8 if self.published else 1  # the published encoders halve three times

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Build a model's sizes from what `to_dict` returned.

        Raises
        ------
        ValueError, TypeError
            If a name is unknown or missing, or a number impossible.
        """
        stages = tuple(StageConfig(**stage) for stage in values["stages"])
        return cls(**{**values, "stages": stages})


_HALF_AND_QUARTER: dict[str, Any] = {
    "steps": 4,
    "radius": 2,
    "features": 8,
    "projected": 8,
    "encoder": 32,
    "motion": 16,
    "hidden": 16,
    "stride": 2,
}

BASE = ModelConfig(
    name="base",
    stages=(
        StageConfig(2, **_HALF_AND_QUARTER),
        StageConfig(1, **_HALF_AND_QUARTER),
        StageConfig(
            1,
            steps=1,
            radius=2,
            features=8,
            projected=8,
            encoder=16,
            motion=16,
            hidden=16,
            inherit=False,
            patch=160,
            # What the stage sees: 4 voxels in the encoder, 2 in the correlation, 5 in the update.
            halo=12,
        ),
    ),
)

TINY = ModelConfig(
    name="tiny",
    stages=(
        StageConfig(4, steps=2, radius=2, features=4, projected=4, encoder=4, motion=6, hidden=6),
        StageConfig(2, steps=2, radius=1, features=4, projected=4, encoder=4, motion=6, hidden=6),
        StageConfig(
            1,
            steps=1,
            radius=1,
            features=2,
            projected=2,
            encoder=2,
            motion=5,
            hidden=4,
            patch=32,
            halo=8,
        ),
    ),
)

_PUBLISHED: dict[str, Any] = {
    "features": 16,
    "projected": 8,
    "encoder": 8,
    "motion": 16,
    "hidden": 64,
}

THESIS = ModelConfig(
    name="thesis",
    stages=(
        StageConfig(4, steps=12, radius=3, **_PUBLISHED),
        StageConfig(2, steps=12, radius=3, parts=2, **_PUBLISHED),
        StageConfig(1, steps=4, radius=2, parts=2, **_PUBLISHED),
    ),
    published=True,
)

PRESETS = {config.name: config for config in (BASE, THESIS, TINY)}
