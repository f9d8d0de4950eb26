"""Pull label maps onto the fixed grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.volumes import LabelMap


def warp_labels(
    moving: LabelMap, displacement_mm: NDArray[np.float32], grid: ImageGrid
) -> NDArray[np.int32]:
    """Pull moving labels onto the fixed grid, each voxel from the nearest one, once.

    Parameters
    ----------
    moving : LabelMap
        May lie on any grid.
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on `grid`.
    grid : ImageGrid
        Of the fixed image.

    Returns
    -------
    ndarray, (i, j, k), int32
        0 outside the moving map.
    """
    warped = np.zeros(grid.shape, np.int32)
    size = np.array(moving.grid.shape)
    j, k = np.indices(grid.shape[1:])
    for i, step in enumerate(displacement_mm):  # by planes, to hold little at once
        points = grid.world_from_voxel(np.stack([np.full_like(j, i), j, k], axis=-1)) + step
        # Half-way between two voxels the higher one is nearest, as for scipy and Learn2Reg.
        nearest = np.floor(moving.grid.voxel_from_world(points) + 0.5).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < size)).all(axis=-1)
        warped[i][inside] = moving.data[tuple(nearest[inside].T)]
    return warped
