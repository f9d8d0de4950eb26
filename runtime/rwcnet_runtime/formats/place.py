"""Where the voxels of a file lie and what they are, and whether that can be said."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid

SAME_PLACE_MM = 0.05


def apart_mm(a: ImageGrid, b: ImageGrid) -> float:
    """Return how far the voxels of two grids of one shape lie apart in mm, at most."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in a.shape))))
    between = a.world_from_voxel(corners) - b.world_from_voxel(corners)
    return float(np.linalg.norm(between, axis=1).max())


def is_same_grid(a: ImageGrid, b: ImageGrid) -> bool:
    """Whether two grids have one shape and lie in one place, to 0.05 mm."""
    return a.shape == b.shape and apart_mm(a, b) <= SAME_PLACE_MM


def is_sheared(affine: NDArray[np.floating]) -> bool:
    """Whether the axes of a voxel-to-world matrix are not at right angles."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3)


@np.errstate(all="ignore")  # of numbers that no header should hold
def check_affine(path: Path, affine: NDArray[np.floating]) -> None:
    """Refuse a voxel-to-world matrix that cannot be inverted.

    Raises
    ------
    InputError
        If it holds NaN or infinite numbers, or flattens space.
    """
    edges = affine[:3, :3]
    # Relative to a box of the same edges, so that small voxels are not taken for flat ones.
    box = np.prod(np.linalg.norm(edges, axis=0))
    if not np.isfinite(affine).all() or not abs(np.linalg.det(edges)) > 1e-6 * box:
        raise InputError(
            f"{path} has a voxel-to-world matrix that cannot be inverted; repair its header (of "
            "NIfTI the sform or qform)."
        )


def grid_from_lps(
    path: Path,
    shape: tuple[int, int, int],
    edges: NDArray[np.floating],
    origin: NDArray[np.floating],
) -> ImageGrid:
    """Make the grid of a file whose voxel edges, as columns, and first voxel are in LPS+ mm.

    Raises
    ------
    InputError
        As of `check_affine`.
    """
    affine = np.eye(4)
    affine[:3, :3] = edges
    affine[:3, 3] = origin
    check_affine(path, affine)
    return ImageGrid(shape, LPS_FROM_RAS @ affine)


def grid_of_itk(path: Path, source: Any) -> tuple[tuple[int, int, int], ImageGrid]:
    """Return shape and grid of one volume.

    Parameters
    ----------
    path : Path
        For messages.
    source : sitk.Image or sitk.ImageFileReader
        What holds it, or has read its header; their methods have the same names.

    Raises
    ------
    InputError
        As of `one_volume` and `check_affine`.
    """
    shape = one_volume(path, source.GetSize())
    # Trailing axes of length 1 say nothing about where the first three lie.
    n = source.GetDimension()
    directions = np.array(source.GetDirection()).reshape(n, n)[:3, :3]
    edges, origin = directions * source.GetSpacing()[:3], np.array(source.GetOrigin()[:3])
    return shape, grid_from_lps(path, shape, edges, origin)


def one_volume(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Drop trailing axes of length 1, and refuse what is no 3-D volume then.

    Raises
    ------
    InputError
        If there are not three axes of at least two voxels.
    """
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    match shape:
        case (i, j, k) if min(i, j, k) > 1:
            return i, j, k
    raise InputError(
        f"{path} has shape {shape} where one 3-D volume of at least two voxels along each axis is "
        "needed; extract or convert one volume first."
    )


def check_real(path: Path, dtype: np.dtype[Any]) -> None:
    """Refuse voxels that are no real numbers.

    Raises
    ------
    InputError
        If they are complex or of several channels.
    """
    if dtype.kind not in "biuf":
        raise InputError(
            f"{path} holds {dtype} voxels where real numbers are needed; extract one channel first."
        )
