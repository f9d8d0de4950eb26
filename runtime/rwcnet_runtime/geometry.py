"""Voxel and world coordinates, and what a displacement does to volume.

World means RAS+ millimetres (x to the patient's right, y to the front, z to the head) everywhere in
the package. Only at the border to ITK, whose world is LPS+, is `LPS_FROM_RAS` applied.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LPS_FROM_RAS: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0])
"""World of ITK from world of NIfTI, as a (4, 4) matrix; it is its own inverse."""

SLAB_VOXELS = 2**22
"""How many are worked on at once where work goes slab by slab, to hold little beside results."""


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class ImageGrid:
    """Where the voxels of an image lie in the world.

    Attributes
    ----------
    shape : tuple of int
        Voxels along the array axes (i, j, k).
    affine : ndarray, (4, 4), float64
        World point (RAS+ mm) from voxel index; index 0 is the centre of the first voxel. It must
        be invertible, and may hold rotation, anisotropic spacing and shear.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Distance in mm between neighbouring voxels along i, j and k; (3,) float64."""
        spacing: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing

    def world_from_voxel(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map voxel indices, (..., 3), to world points in RAS+ mm, (..., 3) float64."""
        return _transform_points(self.affine, points)

    def voxel_from_world(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map world points in RAS+ mm, (..., 3), to voxel indices, (..., 3) float64."""
        return _transform_points(np.linalg.inv(self.affine), points)


def jacobian_determinant(
    displacement_mm: NDArray[np.float32], grid: ImageGrid
) -> NDArray[np.float32]:
    """Local change of volume under the map ``x -> x + d(x)`` of world space.

    With A the 3 x 3 part of the voxel-to-world affine and D the derivatives of d along the voxel
    axes, the world Jacobian is ``I + D A^-1 = (A + D) A^-1``, hence ``det(A + D) / det(A)``.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        Displacement d in RAS+ mm at each voxel of `grid`.
    grid : ImageGrid
        At least two voxels along each axis.

    Returns
    -------
    ndarray, (i, j, k), float32
        1 where volume is kept, below 0 where space folds. Derivatives are central differences,
        one-sided at the border.
    """
    matrix = grid.affine[:3, :3].astype(np.float32)  # float64 would double every array below
    volume = np.empty(grid.shape, np.float32)
    for slab in slabs(grid.shape, axis=0):
        first, last = max(0, slab.start - 1), slab.stop + 1  # neighbours of its ends
        along_i, along_j, along_k = (
            np.gradient(displacement_mm[first:last], axis=axis) + matrix[:, axis]
            for axis in range(3)
        )
        found = np.einsum("...c,...c", along_i, np.cross(along_j, along_k))
        volume[slab] = found[slab.start - first :][: slab.stop - slab.start]
    volume /= np.linalg.det(matrix)
    return volume


def slabs(shape: tuple[int, int, int], axis: int) -> Iterator[slice]:
    """Cut an axis of an image so that no piece has more than `SLAB_VOXELS`, or one plane."""
    planes = max(1, SLAB_VOXELS * shape[axis] // math.prod(shape))
    for start in range(0, shape[axis], planes):
        yield slice(start, min(start + planes, shape[axis]))


def _transform_points(matrix: NDArray[np.floating], points: ArrayLike) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.asarray(points) @ matrix[:3, :3].T + matrix[:3, 3]
    return result
