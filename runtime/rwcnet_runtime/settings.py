"""What can be set: how a bundle runs whatever the pair, and what belongs to one pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rwcnet_runtime.alignment import INITS
from rwcnet_runtime.backends.choose import AUTO
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.images import ImageLike

ANATOMIES = ("generic", "brain", "lung", "abdomen")


@dataclass(frozen=True)
class Settings:
    """How pairs are registered, the same for all that one `Registrar` is given.

    Attributes
    ----------
    engine
        Precision the network runs in, one that the bundle holds.
    backend
        What runs it, one of `rwcnet_runtime.backends.choose.NAMES`; "auto" is the fastest that
        works here.
    threads
        CPU threads; all cores of the process by default.
    refine
        Steps of refinement on the pair itself, at most; 0 is none, by default the bundle says.
    refine_features
        What it compares: "mind", "learned" or "both"; by default the bundle says.
    init
        How pairs without an initial transform are brought together first, one of
        `rwcnet_runtime.alignment.INITS`.
    spacing
        Voxel size in mm that the network works at, in whole voxels of the fixed image; by default
        those of the fixed image, or larger ones if they are too many.
    diffeomorphic
        Whether stages are integrated as stationary velocities, and folds that remain are smoothed
        away.
    anatomy
        What the images show, one of `ANATOMIES`; for the record. All run as "generic"
        does: what was tried for lungs and livers gained nothing, see runtime/README.md.
    deterministic
        Refuse a backend that does not promise the same bits twice, and leave date and times out
        of the report, so that all files are the same byte for byte.

    Raises
    ------
    InputError
        If there is no such anatomy or `init`, or `spacing` is no length.
    """

    engine: str = "fp32"
    backend: str = AUTO
    threads: int | None = None
    refine: int | None = None
    refine_features: str | None = None
    init: str = "auto"
    spacing: float | None = None
    diffeomorphic: bool = False
    anatomy: str = "generic"
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise InputError(f"--init {self.init}: choose from {', '.join(INITS)}")
        if self.spacing is not None and not 0 < self.spacing < math.inf:
            raise InputError(f"--spacing {self.spacing:g} is no voxel size: give a length in mm")
        if self.anatomy not in ANATOMIES:
            raise InputError(f"--anatomy {self.anatomy}: choose from {', '.join(ANATOMIES)}")


# eq=False: arrays in it have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and what is known of them; images and masks as `ImageLike`.

    Attributes
    ----------
    fixed, moving
        Of any orientation, spacing and origin.
    initial_transform
        ITK file that maps fixed points to moving points in LPS mm (rigid, affine, a field), to
        start from instead of what `Settings.init` finds.
    fixed_mask, moving_mask
        Each on the grid of its image: the refinement compares where neither is 0, the moving one
        brought along by the initial transform. The network sees the whole images.
    """

    fixed: ImageLike
    moving: ImageLike
    initial_transform: str | Path | None = None
    fixed_mask: ImageLike | None = None
    moving_mask: ImageLike | None = None
