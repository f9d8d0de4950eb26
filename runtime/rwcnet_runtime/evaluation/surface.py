"""Distance between the surfaces of labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.evaluation.overlap import labels_of

_PERCENTILE = 95
# Area of the surface, through the middles of the cube's edges, that cuts a group of connected
# corners off a unit cube, by how many corners and edges the group has and how many of these edges
# meet in a corner at most.
_AREA = {
    (1, 0, 0): math.sqrt(3) / 8,  # corner: a triangle
    (2, 1, 1): math.sqrt(2) / 2,  # edge: a rectangle
    (3, 2, 2): 1 / 2 + 3 * math.sqrt(3) / 8,  # three in a row
    (4, 4, 2): 1.0,  # a face
    (4, 3, 3): 3 * math.sqrt(3) / 4,  # a corner and its neighbours: a hexagon
    (4, 3, 2): (math.sqrt(2) + math.sqrt(3)) / 2,  # four in a row
}


def hd95_per_label(
    fixed: NDArray[np.int32], warped: NDArray[np.int32], labels: Iterable[int] | None = None
) -> dict[int, float]:
    """95th percentile of the distance between the surfaces of each label, in voxels.

    Learn2Reg's definition, which is that of the package surface-distance at spacing 1: a surface
    element lies between each 2 x 2 x 2 voxels that are not all inside or outside; its distance to
    the nearest element of the other map enters the percentile with its area (marching cubes); the
    larger of both directions counts.

    Parameters
    ----------
    fixed, warped : ndarray, (i, j, k), integer
        Label maps of one shape.
    labels
        Which to measure; by default all but 0 that one of the maps holds.

    Returns
    -------
    dict
        By label; infinite where one map lacks the label, NaN where both do.
    """
    labels = labels_of(fixed, warped) if labels is None else list(labels)
    boxes = _bounding_boxes(fixed, warped)
    return {
        label: _hd95(fixed[boxes[label]] == label, warped[boxes[label]] == label)
        if label in boxes
        else float("nan")
        for label in labels
    }


def _bounding_boxes(*label_maps: NDArray[np.int32]) -> dict[int, tuple[slice, ...]]:
    """Return the box of each label but 0 around its voxels in all maps."""
    found = [np.nonzero(label_map) for label_map in label_maps]
    values = np.concatenate([m[at] for m, at in zip(label_maps, found, strict=True)])
    labels, group = np.unique(values, return_inverse=True)
    ends = []
    for axis in zip(*found, strict=True):
        position = np.concatenate(axis)
        low = np.full(labels.size, position.max(initial=0))
        high = np.zeros_like(low)
        np.minimum.at(low, group, position)
        np.maximum.at(high, group, position)
        ends.append((low.tolist(), high.tolist()))
    return {
        int(label): tuple(slice(low[n], high[n] + 1) for low, high in ends)
        for n, label in enumerate(labels)
    }


def _hd95(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    if not a.any() or not b.any():
        return math.inf
    codes = [_corner_codes(mask) for mask in (a, b)]
    surfaces = [(code > 0) & (code < 255) for code in codes]
    return max(
        _percentile(_distance_to(surfaces[1 - n])[surfaces[n]], _areas()[codes[n][surfaces[n]]])
        for n in (0, 1)
    )


def _corner_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Encode which voxels of each 2 x 2 x 2 neighbourhood are inside, padding included."""
    padded = np.pad(mask, 1).astype(np.uint8)
    i, j, k = (size - 1 for size in padded.shape)
    codes = np.zeros((i, j, k), np.uint8)
    for bit, (x, y, z) in enumerate(np.ndindex(2, 2, 2)):
        codes |= padded[x : x + i, y : y + j, z : z + k] << np.uint8(bit)
    return codes


def _distance_to(surface: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Euclidean distance of each voxel to the nearest one of a surface, in voxels."""
    image = sitk.GetImageFromArray(surface.astype(np.uint8))
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=False)
    # Inside, where a surface is thick, the map is negative: there the distance is 0.
    distance: NDArray[np.float32] = np.maximum(sitk.GetArrayViewFromImage(signed), 0)
    return distance


def _percentile(distances: NDArray[np.float32], areas: NDArray[np.float64]) -> float:
    order = np.argsort(distances)
    share = np.cumsum(areas[order]) / areas.sum()
    place = np.searchsorted(share, _PERCENTILE / 100)
    return float(distances[order[min(int(place), len(order) - 1)]])


@cache
def _areas() -> NDArray[np.float64]:
    """Area of the surface in each of the 256 neighbourhoods, by its code; (256,)."""
    return np.array([_area({n for n in range(8) if code >> n & 1}) for code in range(256)])


def _area(corners: set[int]) -> float:
    """Sum the surfaces around the connected groups of whichever corners are fewer."""
    left = corners if len(corners) <= 4 else set(range(8)) - corners
    area = 0.0
    while left:
        group, border = set(), {min(left)}
        while border:
            group |= border
            border = {n ^ bit for n in border for bit in (1, 2, 4)} & left - group
        degrees = [sum(n ^ bit in group for bit in (1, 2, 4)) for n in group]
        area += _AREA[len(group), sum(degrees) // 2, max(degrees)]
        left = left - group
    return area
