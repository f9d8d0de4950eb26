"""A displacement as a map that is linear in tetrahedra: what becomes of their volumes.

The cube between eight voxels is cut into five tetrahedra, four at every second corner and one
between these, which can be done in two ways. The eight at the corners are the one-sided Jacobian
determinants: forward or backward differences along each axis, at the voxel of that corner. Where
all ten keep their orientation, everywhere, the map is digitally diffeomorphic (Liu et al., "On
Finite Difference Jacobian Computation in Deformable Image Registration", IJCV 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid

Indices: TypeAlias = NDArray[np.intp]
Corner: TypeAlias = tuple[int, ...]

CORNERS: tuple[Corner, ...] = tuple(np.ndindex(2, 2, 2))


def _tetrahedra() -> tuple[tuple[Corner, ...], ...]:
    cube = np.array(CORNERS)
    even = cube.sum(axis=1) % 2 == 0
    found = [np.vstack([corner, abs(corner - np.eye(3, dtype=int))]) for corner in cube]
    found += [cube[even], cube[~even]]
    for vertices in found:
        if np.linalg.det(vertices[1:] - vertices[0]) < 0:
            vertices[[2, 3]] = vertices[[3, 2]]
    return tuple(tuple(map(tuple, vertices.tolist())) for vertices in found)


TETRAHEDRA = _tetrahedra()
"""Vertices of the ten, each of positive volume: one at each of `CORNERS`, its corner first, and the
two between them, which are twice as large."""


def offsets(grid: ImageGrid) -> dict[Corner, int]:
    """How much further the flat index of each corner of a cube is than that of its first voxel."""
    _, j, k = grid.shape
    return {corner: (corner[0] * j + corner[1]) * k + corner[2] for corner in CORNERS}


def planes_of_cubes(grid: ImageGrid) -> Iterator[Indices]:
    """Yield all cubes of a grid, a plane (j, k) of them at a time: flat indices of first voxels."""
    i, j, k = grid.shape
    plane = (np.arange(j - 1)[:, None] * k + np.arange(k - 1)).ravel()
    for n in range(i - 1):
        yield n * j * k + plane


def determinants(
    displacement_mm: NDArray[np.float32], grid: ImageGrid, cubes: Indices
) -> Iterator[NDArray[np.float32]]:
    """Yield what becomes of the volume of each tetrahedron of some cubes.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on `grid`, C-order.
    grid : ImageGrid
        At least two voxels along each axis.
    cubes : ndarray, (n,), int
        Flat indices of their first voxels.

    Yields
    ------
    ndarray, (n,), float32
        In the order of `TETRAHEDRA`, volume over volume at rest: the first eight are the one-sided
        Jacobian determinants. 1 where nothing changes, 0 or below where the map folds.
    """
    rows = displacement_mm.reshape(-1, 3)
    matrix = grid.affine[:3, :3].astype(np.float32)
    at = {  # where the corners go, less the place of the cube
        corner: (rows.take(cubes + offset, axis=0) + matrix @ np.array(corner, np.float32)).T.copy()
        for corner, offset in offsets(grid).items()
    }
    rest = np.linalg.det(matrix)
    for vertices in TETRAHEDRA:
        scale = np.float32(1 / (rest * (2 if vertices in TETRAHEDRA[8:] else 1)))
        yield scale * _triple_product(*(at[vertex] - at[vertices[0]] for vertex in vertices[1:]))


def _triple_product(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return ``a . (b x c)`` of vectors (3, n)."""
    product: NDArray[np.float32] = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        + a[1] * (b[2] * c[0] - b[0] * c[2])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
    return product
