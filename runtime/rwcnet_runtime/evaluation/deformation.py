"""How regular a displacement is: spread of the Jacobian, folded voxels, non-diffeomorphic volume.

Each can be restricted to a mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.tetrahedra import CORNERS, determinants, offsets, planes_of_cubes

_BORDER = 2


def sd_log_jacobian(
    determinant: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
) -> float:
    """Learn2Reg's SDlogJ: standard deviation of ``log(clip(J + 3, 1e-9, 1e9))``.

    Parameters
    ----------
    determinant : ndarray, (i, j, k), float32
        `jacobian_determinant`; two voxels at each border, where its differences are one-sided or
        Learn2Reg's would see zeros outside, are left out.
    mask : ndarray, (i, j, k), bool, optional
        Where to look.

    Returns
    -------
    float
        NaN where no voxel is left.
    """
    inner = (slice(_BORDER, -_BORDER),) * 3
    values = determinant[inner] if mask is None else determinant[inner][mask[inner]]
    if not values.size:
        return float("nan")
    return float(np.log(np.clip(values.astype(np.float64) + 3, 1e-9, 1e9)).std())


def folded_percent(
    determinant: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
) -> float:
    """Share of voxels whose Jacobian determinant (central differences) is 0 or below, in %."""
    values = determinant if mask is None else determinant[mask]
    return 100 * float((values <= 0).mean()) if values.size else float("nan")


def non_diffeomorphic_percent(
    displacement_mm: NDArray[np.float32], grid: ImageGrid, mask: NDArray[np.bool_] | None = None
) -> float:
    """Non-diffeomorphic volume (NDV) in % of the volume looked at.

    Liu et al., "On Finite Difference Jacobian Computation in Deformable Image Registration", IJCV
    2024. Central differences skip the voxel itself and so miss folds. Here the map is linear in
    tetrahedra, see `rwcnet_runtime.tetrahedra`. The volume of every one that is turned inside out
    counts, half for each way of cutting; none does where the map is digitally diffeomorphic. The
    authors' code also repeats the border outwards and divides by the number of voxels.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on `grid`.
    grid : ImageGrid
        At least two voxels along each axis.
    mask : ndarray, (i, j, k), bool, optional
        Cubes with all corners inside are looked at.

    Returns
    -------
    float
        NaN where no cube is left.
    """
    counts = np.ones(grid.shape, bool) if mask is None else mask.astype(bool)
    volume, looked_at = 0.0, 0
    for cubes in planes_of_cubes(grid):
        inside = np.logical_and.reduce([counts.flat[cubes + n] for n in offsets(grid).values()])
        for n, determinant in enumerate(determinants(displacement_mm, grid, cubes[inside])):
            turned = np.maximum(-determinant, 0).sum(dtype=np.float64)
            volume += float(turned) * (1 / 6 if n < len(CORNERS) else 1 / 3) / 2
        looked_at += int(np.count_nonzero(inside))
    return 100 * volume / looked_at if looked_at else float("nan")
