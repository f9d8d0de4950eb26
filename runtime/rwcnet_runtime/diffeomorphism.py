"""Displacements without folds: where they fold in any one-sided difference, and how that ends."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.tetrahedra import (
    CORNERS,
    TETRAHEDRA,
    Indices,
    determinants,
    offsets,
    planes_of_cubes,
)

ROUNDS = 200
# Determinants are brought above this and not above 0, so that rounding and other frames of
# reference fold nothing anew.
_LEAST = 0.01
# After so many rounds what still folds is smoothed in a wider neighbourhood.
_PATIENCE = 8
_AT_ONCE = 2**16


@dataclass(frozen=True)
class Removal:
    """What the removal of folds did.

    Attributes
    ----------
    folded_before, folded_after
        Voxels where `least_determinant` is 0 or below.
    rounds
        Of smoothing that it took.
    changed
        Voxels whose displacement changed.
    largest_change_mm
        By how much at most.
    """

    folded_before: int
    folded_after: int
    rounds: int
    changed: int
    largest_change_mm: float


def least_determinant(displacement_mm: NDArray[np.float32], grid: ImageGrid) -> NDArray[np.float32]:
    """Return the smallest of all one-sided Jacobian determinants at each voxel.

    Central differences skip the voxel itself and so miss folds. There are eight combinations of
    forward and backward differences (Liu et al., IJCV 2024), fewer at the border. The tetrahedron
    between four corners of a cube (`rwcnet_runtime.tetrahedra`) counts at each of the four, so that
    a map is digitally diffeomorphic where this is positive everywhere. Determinants of central
    differences, which are means of the one-sided ones, are positive then, too.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on `grid`.
    grid : ImageGrid
        At least two voxels along each axis.

    Returns
    -------
    ndarray, (i, j, k), float32
        1 where volume is kept, 0 or below where space folds.
    """
    least = np.full(grid.shape, np.inf, np.float32)
    for cubes in planes_of_cubes(grid):
        _lower(least, displacement_mm, grid, cubes)
    return least


def remove_folds(
    displacement_mm: NDArray[np.float32], grid: ImageGrid, rounds: int = ROUNDS
) -> tuple[NDArray[np.float32], Removal]:
    """Smooth a displacement where it folds until it does not, and leave it alone elsewhere.

    A round replaces the displacement near each folded voxel by its average with the binomial
    weights 1, 2, 1 along each axis, which approach a Gaussian as rounds add up; what is linear
    stays as it is, at the border as well. Folds that remain for some rounds are smoothed more
    widely.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on `grid`; left as it was.
    grid : ImageGrid
        At least two voxels along each axis.
    rounds
        At most so many.

    Returns
    -------
    displacement_mm : ndarray, (i, j, k, 3), float32
        Without folds, unless `Removal.folded_after` says how many are left.
    removal : Removal
        What was done.
    """
    least = least_determinant(displacement_mm, grid)
    before = int(np.count_nonzero(least <= 0))
    smooth = np.array(displacement_mm, np.float32, order="C")
    taken = 0
    # Only the neighbourhood of what folds is looked at again.
    while before and taken < rounds and (folded := np.flatnonzero(least < _LEAST)).size:
        near = _near(folded, grid, 1 + taken // _PATIENCE)
        rows = smooth.reshape(-1, 3)
        rows[near] = _averages(rows, near, grid)
        cubes = _cubes_around(near, grid)
        for offset in offsets(grid).values():
            least.reshape(-1)[cubes + offset] = np.inf
        for first in range(0, cubes.size, _AT_ONCE):
            _lower(least, smooth, grid, cubes[first : first + _AT_ONCE])
        taken += 1
    squared = np.zeros(grid.shape, np.float32)
    for c in range(3):
        squared += (smooth[..., c] - displacement_mm[..., c]) ** 2
    return smooth, Removal(
        folded_before=before,
        folded_after=int(np.count_nonzero(least <= 0)),
        rounds=taken,
        changed=int(np.count_nonzero(squared)),
        largest_change_mm=float(np.sqrt(squared.max())),
    )


def without_folds(mapping: Mapping) -> tuple[Mapping, Removal]:
    """Remove the folds of a mapping, those of its initial transform included.

    Returns
    -------
    mapping : Mapping
        From the same grid; the one that was given if it has no folds. Otherwise its flow holds the
        initial transform.
    removal : Removal
        What was done.
    """
    smooth, removal = remove_folds(mapping.displacement_mm(), mapping.fixed)
    if not removal.changed:
        return mapping, removal
    voxel_from_world = np.linalg.inv(mapping.fixed.affine[:3, :3]).astype(np.float32)
    flow = np.ascontiguousarray(np.moveaxis(smooth @ voxel_from_world.T, -1, 0))
    return Mapping(mapping.fixed, mapping.moving, flow_vox=flow), removal


def _lower(
    least: NDArray[np.float32],
    displacement_mm: NDArray[np.float32],
    grid: ImageGrid,
    cubes: Indices,
) -> None:
    """Bring `least` down to the determinants of cubes."""
    flat, further = least.reshape(-1), offsets(grid)
    found = determinants(displacement_mm, grid, cubes)
    for n, (vertices, determinant) in enumerate(zip(TETRAHEDRA, found, strict=True)):
        for vertex in vertices[:1] if n < len(CORNERS) else vertices:
            at = cubes + further[vertex]
            flat[at] = np.minimum(flat[at], determinant)


def _near(voxels: Indices, grid: ImageGrid, reach: int) -> Indices:
    """Return all voxels no more than `reach` away from some along each axis, as flat indices."""
    marked = np.zeros(grid.shape, bool)
    marked.reshape(-1)[voxels] = True
    for axis in range(3):
        along = np.moveaxis(marked, axis, 0)
        for _ in range(reach):
            ahead, behind = along[:-1].copy(), along[1:].copy()
            along[1:] |= ahead
            along[:-1] |= behind
    return np.flatnonzero(marked)


def _cubes_around(voxels: Indices, grid: ImageGrid) -> Indices:
    """Return all cubes that have one of some voxels as a corner."""
    marked = np.zeros(grid.shape, bool)
    marked.reshape(-1)[voxels] = True
    for axis in range(3):
        along = np.moveaxis(marked, axis, 0)
        along[:-1] |= along[1:].copy()
        along[-1] = False
    return np.flatnonzero(marked)


def _averages(rows: NDArray[np.float32], voxels: Indices, grid: ImageGrid) -> NDArray[np.float32]:
    """Average rows (all voxels, 3) around some voxels; across the border, not along that axis."""
    places = np.unravel_index(voxels, grid.shape)
    strides = (grid.shape[1] * grid.shape[2], grid.shape[2], 1)
    # Both neighbours or none: one alone would bend what is linear.
    steps = [
        stride * ((place > 0) & (place < size - 1))
        for place, size, stride in zip(places, grid.shape, strides, strict=True)
    ]
    averages = np.zeros((voxels.size, 3), np.float32)
    for sides in itertools.product((-1, 0, 1), repeat=3):
        at = voxels + sum(side * step for side, step in zip(sides, steps, strict=True))
        weight = np.float32(np.prod([0.25 * (2 - abs(side)) for side in sides]))
        averages += weight * rows.take(at, axis=0)
    return averages
