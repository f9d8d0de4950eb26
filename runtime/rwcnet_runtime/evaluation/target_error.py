"""Distance of landmarks after registration."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid

# A sample of a cubic spline depends on voxels k away by about 0.27^k, here below 1e-6.
_SPLINE_REACH = 12


def inside(points: NDArray[np.float64], grid: ImageGrid) -> NDArray[np.bool_]:
    """Which world points, (n, 3) in RAS+ mm, lie between the voxel centres of a grid; (n,)."""
    voxels = grid.voxel_from_world(points)
    # A landmark placed on the last voxel lies inside whatever the header rounds.
    within = (voxels >= -1e-3) & (voxels <= np.array(grid.shape) - 1 + 1e-3)
    return np.asarray(within.all(axis=1))


def landmark_errors_mm(
    displacement_mm: NDArray[np.float32],
    grid: ImageGrid,
    fixed_points: NDArray[np.float64],
    moving_points: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Target registration error: distance of each moved fixed landmark to its moving partner.

    The displacement is sampled by cubic splines, as Learn2Reg samples its voxel displacements. It
    multiplies the difference of voxel indices by the spacing of the moving image, which is the
    same number wherever the axes of the images are parallel.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on `grid`.
    grid : ImageGrid
        Of the fixed image.
    fixed_points, moving_points : ndarray, (n, 3)
        RAS+ mm; the fixed ones lie inside `grid`.

    Returns
    -------
    ndarray, (n,), float64
        In mm.
    """
    moved = [
        point + _spline_sample(displacement_mm, voxel)
        for point, voxel in zip(fixed_points, grid.voxel_from_world(fixed_points), strict=True)
    ]
    distance: NDArray[np.float64] = np.linalg.norm(moving_points - np.array(moved), axis=1)
    return distance


def _spline_sample(field: NDArray[np.float32], voxel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample (i, j, k, 3) at one voxel position by cubic B-splines, mirrored at the border."""
    last = np.array(field.shape[:3]) - 1
    voxel = np.clip(voxel, 0, last)
    low = np.maximum(np.floor(voxel).astype(int) - _SPLINE_REACH, 0)
    high = np.minimum(np.ceil(voxel).astype(int) + _SPLINE_REACH, last) + 1
    window = field[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
    # ITK mirrors once, and on an axis of two voxels reads memory beyond them.
    more = np.where(np.array(window.shape[:3]) < 4, 3, 0)
    window = np.pad(window, [*((n, n) for n in more), (0, 0)], mode="reflect")
    position = (voxel - low + more).tolist()
    sampled = [
        sitk.GetImageFromArray(window[..., c].astype(np.float64).transpose(2, 1, 0))
        .EvaluateAtContinuousIndex(position, sitk.sitkBSpline)
        for c in range(3)
    ]  # fmt: skip
    return np.array(sampled)
