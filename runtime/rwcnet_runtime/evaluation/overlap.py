"""Label maps: pulling them onto the fixed grid, and their Dice overlap."""

from __future__ import annotations

from collections.abc import Iterable

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


def labels_of(*label_maps: NDArray[np.int32]) -> list[int]:
    """Return the labels that at least one of the maps holds, in order, without 0."""
    found: set[int] = set()
    for label_map in label_maps:
        found.update(np.unique(label_map).tolist())
    return sorted(found - {0})


def dice_per_label(
    fixed: NDArray[np.int32], warped: NDArray[np.int32], labels: Iterable[int] | None = None
) -> dict[int, float]:
    """Dice overlap of each label, ``2 |A and B| / (|A| + |B|)``.

    Parameters
    ----------
    fixed, warped : ndarray, (i, j, k), integer
        Label maps of one shape.
    labels
        Which to measure; by default all but 0 that one of the maps holds.

    Returns
    -------
    dict
        0..1 by label; NaN where neither map holds the label.
    """
    labels = labels_of(fixed, warped) if labels is None else list(labels)
    in_fixed, in_warped, in_both = (
        dict(zip(*(part.tolist() for part in np.unique(found, return_counts=True)), strict=True))
        for found in (fixed, warped, fixed[fixed == warped])
    )
    totals = {label: in_fixed.get(label, 0) + in_warped.get(label, 0) for label in labels}
    return {
        label: 2 * in_both.get(label, 0) / total if total else float("nan")
        for label, total in totals.items()
    }
