"""The three slices that a report shows, as a radiologist is used to see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid

LARGEST = 320
"""Pixels along an edge of a picture, at most."""


@dataclass(frozen=True)
class Plane:
    """A slice of a volume whose axes lie closest to RAS+.

    Attributes
    ----------
    name
        Of the plane: axial, coronal or sagittal.
    across, down, through
        Array axes that run along a row of the picture, along a column, and from slice to slice.
        Both run backwards in it: the patient's right is on the left (radiological convention),
        and so is the front of a sagittal slice; head or front are at the top.
    index
        Of the slice, along `through`.
    shape
        Voxels along `across` and `down`.
    extent_mm
        Width and height.
    marks
        What is at the left, right, top and bottom, one letter each.
    """

    name: str
    across: int
    down: int
    through: int
    index: int
    shape: tuple[int, int]
    extent_mm: tuple[float, float]
    marks: str

    def cut(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return the slice of an array, (i, j, k, ...), as (rows, columns, ...) of the picture."""
        order = (self.through, self.down, self.across, *range(3, volume.ndim))
        return volume.transpose(order)[self.index, ::-1, ::-1]

    def picture(
        self,
        volume: NDArray[np.float32],
        reduce: Callable[..., NDArray[np.float32]] = np.mean,
    ) -> NDArray[np.float32]:
        """Return the slice, (rows, columns), made smaller where it has over `LARGEST` pixels.

        Parameters
        ----------
        volume : ndarray, (i, j, k), float32
        reduce
            Makes one pixel of several.
        """
        picture = self.cut(volume)
        rows, columns = (-(-size // LARGEST) for size in picture.shape)
        # Repeated at the ends, so that every pixel is made of as many.
        margins = [
            (0, -size % edge) for size, edge in zip(picture.shape, (rows, columns), strict=True)
        ]
        whole = np.pad(picture, margins, mode="edge")
        blocks = whole.reshape(whole.shape[0] // rows, rows, whole.shape[1] // columns, columns)
        return reduce(blocks, axis=(1, 3))


def choose_planes(fixed: NDArray[np.float32], grid: ImageGrid) -> list[Plane]:
    """Return an axial, a coronal and a sagittal plane through the middle of what is bright.

    Parameters
    ----------
    fixed : ndarray, (i, j, k), float32
        Intensities on `grid`.
    grid : ImageGrid
        Axes closest to RAS+.
    """
    middle = _centre_of_mass(fixed)
    layout = {
        "axial": (0, 1, 2, "RLAP"),
        "coronal": (0, 2, 1, "RLSI"),
        "sagittal": (1, 2, 0, "APSI"),
    }
    return [
        Plane(
            name,
            across,
            down,
            through,
            middle[through],
            (grid.shape[across], grid.shape[down]),
            (
                float(grid.shape[across] * grid.spacing[across]),
                float(grid.shape[down] * grid.spacing[down]),
            ),
            marks,
        )
        for name, (across, down, through, marks) in layout.items()
    ]


def _centre_of_mass(image: NDArray[np.float32]) -> list[int]:
    weight = image - image.min()
    middle = []
    for axis in range(3):
        profile = weight.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        middle.append(round(float(profile @ np.arange(profile.size) / profile.sum())))
    return middle
