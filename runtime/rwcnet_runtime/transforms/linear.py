"""The linear part of a displacement field."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid

_POINTS_ALONG_AXIS = 24


def fit_linear(displacement_mm: NDArray[np.float32], grid: ImageGrid) -> NDArray[np.float64]:
    """Fit the linear map that is closest to a displacement field, by least squares.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on `grid`; some 24 voxels along each axis are used.
    grid : ImageGrid
        Where it lies.

    Returns
    -------
    ndarray, (4, 4), float64
        From x to about x + d(x), RAS+ mm; the identity where the best map would be flat, as no
        inverse could start from it.
    """
    axes = [np.unique(np.linspace(0, n - 1, _POINTS_ALONG_AXIS).astype(int)) for n in grid.shape]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    x = grid.world_from_voxel(voxels)
    centre = x.mean(axis=0)  # origins far away would spoil the fit
    known = np.column_stack([x - centre, np.ones(len(x))])
    y = x + displacement_mm[tuple(voxels.T)]
    found = np.linalg.lstsq(known, y)[0].T
    if np.linalg.det(found[:, :3]) < 1e-3:
        return np.eye(4)
    linear = np.eye(4)
    linear[:3, :3] = found[:, :3]
    linear[:3, 3] = found[:, 3] - found[:, :3] @ centre
    return linear
