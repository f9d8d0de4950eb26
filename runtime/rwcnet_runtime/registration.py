"""What a registration found: displacement, warped image and report, in memory and in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.images import ImageLike, displacement_like, image_like
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.outputs import Outputs
from rwcnet_runtime.volumes import Volume


@dataclass(frozen=True, eq=False)
class Registration:
    """What a registration found.

    Attributes
    ----------
    fixed, moving : Volume
        The images as read.
    mapping : Mapping
        From the fixed grid into the moving volume, initial transform included.
    warped : ndarray, (i, j, k), float32
        The moving image on `fixed.grid`, interpolated once from the moving file's own voxels.
    displacement_mm : ndarray, (i, j, k, 3), float32
        Moving point minus fixed point, RAS+ mm, on `fixed.grid`.
    report : dict
        What `registration.json` holds.
    given : ImageLike
        The fixed image as it was given, whose kind results can have.
    start : sitk.Transform, optional
        What the network started from, fixed to moving points in LPS mm; none where the headers
        were believed.
    """

    fixed: Volume
    moving: Volume
    mapping: Mapping
    warped: NDArray[np.float32]
    displacement_mm: NDArray[np.float32]
    report: dict[str, Any]
    given: ImageLike
    start: sitk.Transform | None = None

    def save(self, folder: str | Path, *, overwrite: bool = False, **what: Any) -> list[Path]:
        """Write ``warped.nii.gz``, ``displacement.nii.gz`` and ``registration.json``.

        Parameters
        ----------
        folder
            Made if it is not there.
        overwrite
            Whether results of an earlier registration in it are replaced.
        **what
            More of `Outputs`.

        Raises
        ------
        InputError
            If the folder cannot be written to, or holds an input or results that would be
            replaced.
        """
        return Outputs(Path(folder), overwrite, **what).write(self)

    def warped_image(self) -> Any:
        """Return `warped` as an image of the kind of the fixed one, see `images.image_like`."""
        return image_like(self.given, self.warped, self.fixed)

    def displacement_image(self) -> Any:
        """Return `displacement_mm` like the fixed image, see `images.displacement_like`."""
        return displacement_like(self.given, self.displacement_mm, self.fixed)
