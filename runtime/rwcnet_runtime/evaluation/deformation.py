"""How regular a displacement is: spread of the Jacobian, folded voxels, non-diffeomorphic volume.

Each can be restricted to a mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid

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
    tetrahedra: the cube between eight voxels is cut into five of them, four at every second corner
    and one between these, which can be done in two ways. The volume of every tetrahedron that is
    turned inside out counts, half for each way; none does where the map is digitally diffeomorphic.
    The authors' code also repeats the border outwards and divides by the number of voxels.

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
    shape = tuple(size - 1 for size in grid.shape)
    cubes = np.ones(shape, bool)
    if mask is not None:
        for corner in np.ndindex(2, 2, 2):
            cubes &= mask[_window(corner, shape)]
    voxel_from_world = np.linalg.inv(grid.affine[:3, :3]).T.astype(np.float32)
    tetrahedra, volume = _tetrahedra(), 0.0
    for i in range(shape[0]):  # by slabs, to hold little at once
        step = np.moveaxis(displacement_mm[i : i + 2] @ voxel_from_world, -1, 0)
        at = {  # where the corners of each cube go, less the place of the cube
            corner: step[:, *_window(corner, (1, *shape[1:]))]
            + np.array(corner, np.float32).reshape(3, 1, 1, 1)
            for corner in np.ndindex(2, 2, 2)
        }
        turned = np.zeros((1, *shape[1:]), np.float32)
        for vertices in tetrahedra:
            turned += np.maximum(-_volume(*(at[vertex] for vertex in vertices)), 0)
        volume += float(turned[cubes[i : i + 1]].sum(dtype=np.float64)) / 2
    looked_at = np.count_nonzero(cubes)
    return 100 * volume / looked_at if looked_at else float("nan")


def _window(corner: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Select that corner of every cube from an array on the voxels."""
    return tuple(slice(start, start + size) for start, size in zip(corner, shape, strict=True))


def _tetrahedra() -> list[tuple[tuple[int, ...], ...]]:
    """Corners of the ten tetrahedra of a cube, ordered so that their volume is positive."""
    cube = np.array(list(np.ndindex(2, 2, 2)))
    even = cube.sum(axis=1) % 2 == 0
    found = [cube[even], cube[~even]]
    found += [np.vstack([corner, abs(corner - np.eye(3, dtype=int))]) for corner in cube]
    for vertices in found:
        if np.linalg.det(vertices[1:] - vertices[0]) < 0:
            vertices[[2, 3]] = vertices[[3, 2]]
    return [tuple(tuple(vertex) for vertex in vertices.tolist()) for vertices in found]


def _volume(*vertices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signed volume of tetrahedra, four times (3, ...), in cubes of the grid."""
    a, b, c = (vertex - vertices[0] for vertex in vertices[1:])
    volume: NDArray[np.float32] = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        + a[1] * (b[2] * c[0] - b[0] * c[2])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    ) / np.float32(6)
    return volume
