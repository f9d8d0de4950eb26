"""Invert a displacement field: where in the fixed image each voxel of the moving one belongs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant
from rwcnet_runtime.transforms.linear import fit_linear
from rwcnet_runtime.transforms.sampling import POINTS_AT_ONCE, sample, slabs, voxels_of
from rwcnet_runtime.transforms.solving import Rest, iterate, solve

TOLERANCE_VOX = 0.05
"""A point is found where the forward map misses its voxel by less, in voxels of the moving image.

The bar is a mean of 0.1; most points end well below the tolerance."""

_STRIDES = (4, 2, 1)  # from coarse to fine, each starts from the one before


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Inverse:
    """The way back of a displacement field.

    Attributes
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        Fixed point minus moving point, RAS+ mm, on the moving grid.
    report : dict
        ``residual_vox`` (mean, p99, max): how far from a moving voxel the forward map brings its
        partner, in voxels of the moving image, over voxels whose partner lies in the fixed image
        where the Jacobian determinant is positive. ``not_found_percent``: share of the voxels with
        a partner in the fixed image, folds included, that are left above `TOLERANCE_VOX`.
        ``outside_percent``: share of the moving voxels whose partner lies outside of the fixed
        image. What has no voxel to be counted over is left out.
    """

    displacement_mm: NDArray[np.float32]
    report: dict[str, Any]


def invert(displacement_mm: NDArray[np.float32], fixed: ImageGrid, moving: ImageGrid) -> Inverse:
    """Solve ``x + d(x) = y`` for x at each voxel y of the moving grid.

    The linear map L that fits x + d(x) best is undone first, so that what remains is small however
    scanners and patients were turned: with ``g(x) = L^-1 (x + d(x)) - x`` and ``p = L^-1 y``, the
    solution is p + h where ``h = -g(p + h)``. That is iterated from every fourth voxel to every
    one; points that the iteration leaves are solved one by one.

    Between voxels d is linear. Outside of the fixed image g keeps its border value, so that the
    map goes on there as the linear one.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        Moving point minus fixed point, RAS+ mm, on `fixed`.
    fixed, moving : ImageGrid
        Any two grids in one world.

    Raises
    ------
    ValueError
        If `displacement_mm` does not lie on `fixed`.
    """
    if displacement_mm.shape != (*fixed.shape, 3):
        raise ValueError(
            f"displacement_mm has shape {displacement_mm.shape}, wanted {(*fixed.shape, 3)}"
        )
    linear = fit_linear(displacement_mm, fixed)
    # p from y and y from p, where p is in voxels of the fixed image, as all that is solved.
    start = np.linalg.inv(linear @ fixed.affine) @ moving.affine
    metric = np.linalg.inv(start)[:3, :3].astype(np.float64)
    rest = Rest(_without_linear(displacement_mm, fixed, linear), metric, TOLERANCE_VOX)
    step = np.zeros((1, 1, 1, 3), np.float32)
    for stride in _STRIDES:
        step, left = _iterate_every(stride, rest, start, moving.shape, step)
    _solve_left(rest, start, step, left)
    return _in_world(step, left, displacement_mm, fixed, moving, start)


def inverse_consistency(
    displacement_mm: NDArray[np.float32],
    fixed: ImageGrid,
    inverse_mm: NDArray[np.float32],
    moving: ImageGrid,
) -> dict[str, float]:
    """Measure how far from where it was a fixed point comes back that is moved there and back.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        Moving point minus fixed point, RAS+ mm, on `fixed`.
    fixed, moving : ImageGrid
        The grids.
    inverse_mm : ndarray, (i, j, k, 3), float32
        Fixed point minus moving point, RAS+ mm, on `moving`: of an `Inverse`, or what registering
        the images the other way around gave.

    Returns
    -------
    dict
        ``mean_mm``, ``p99_mm``, ``max_mm`` over every second fixed voxel along each axis that lands
        between moving voxels, left out without one such, and their share, ``compared_percent``.
    """
    x = fixed.world_from_voxel(voxels_of(fixed.shape, 2))
    y = x + displacement_mm[::2, ::2, ::2]
    voxels = moving.voxel_from_world(y)
    inside = ((voxels >= 0) & (voxels <= np.array(moving.shape) - 1)).all(axis=-1)
    found = {"compared_percent": 100 * float(inside.mean())}
    if inside.any():
        back = y[inside] + sample(inverse_mm, voxels[inside])
        miss = np.linalg.norm(back - x[inside], axis=-1)
        found["mean_mm"] = float(miss.mean())
        found["p99_mm"] = float(np.percentile(miss, 99))
        found["max_mm"] = float(miss.max())
    return found


def _without_linear(
    displacement_mm: NDArray[np.float32], grid: ImageGrid, linear: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return g of `invert` in voxels, (i, j, k, 3) on `grid`."""
    to_voxel = np.linalg.inv(linear @ grid.affine)
    rest = np.empty(displacement_mm.shape, np.float32)
    for slab, x in slabs(grid.shape):
        y = grid.world_from_voxel(x) + displacement_mm[slab]
        rest[slab] = y @ to_voxel[:3, :3].T + to_voxel[:3, 3] - x
    return rest


def _iterate_every(
    stride: int,
    rest: Rest,
    start: NDArray[np.float64],
    shape: tuple[int, int, int],
    coarser: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Iterate at every voxel of a stride; return h, (i, j, k, 3), and what is left, (i, j, k)."""
    size = tuple(len(range(0, n, stride)) for n in shape)
    step, left = np.empty((*size, 3), np.float32), np.empty(size, np.float32)

    def work(part: tuple[slice, NDArray[np.float64]]) -> None:
        slab, voxels = part
        y = voxels.reshape(-1, 3)
        target = y @ (stride * start[:3, :3].T) + start[:3, 3]
        h, length = iterate(rest, target, sample(coarser, y / 2))
        step[slab], left[slab] = h.reshape(step[slab].shape), length.reshape(left[slab].shape)

    with ThreadPoolExecutor(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()) as threads:
        list(threads.map(work, slabs(size)))
    return step, left


def _solve_left(
    rest: Rest,
    start: NDArray[np.float64],
    step: NDArray[np.float32],
    left: NDArray[np.float32],
) -> None:
    """Solve where the iteration did not end, in place."""
    which = np.argwhere(left > rest.tolerance)
    for part in np.array_split(which, 1 + len(which) // POINTS_AT_ONCE):
        at = tuple(part.T)
        step[at], left[at] = solve(rest, part @ start[:3, :3].T + start[:3, 3], step[at])


def _in_world(
    step: NDArray[np.float32],
    left: NDArray[np.float32],
    displacement_mm: NDArray[np.float32],
    fixed: ImageGrid,
    moving: ImageGrid,
    start: NDArray[np.float64],
) -> Inverse:
    """Bring what was solved in fixed voxels to mm, and count."""
    determinant = jacobian_determinant(displacement_mm, fixed)
    last = np.array(fixed.shape) - 1
    inside, unfolded = np.empty(moving.shape, bool), np.empty(moving.shape, bool)
    for slab, y in slabs(moving.shape):
        x = y @ start[:3, :3].T + start[:3, 3] + step[slab]
        inside[slab] = ((x >= -0.5) & (x <= last + 0.5)).all(axis=-1)
        i, j, k = np.moveaxis(np.rint(np.clip(x, 0, last)).astype(int), -1, 0)
        unfolded[slab] = determinant[i, j, k] > 0
        step[slab] = fixed.world_from_voxel(x) - moving.world_from_voxel(y)
    return Inverse(step, _report(left, inside, unfolded))


def _report(
    left: NDArray[np.float32], inside: NDArray[np.bool_], unfolded: NDArray[np.bool_]
) -> dict[str, Any]:
    found: dict[str, Any] = {"outside_percent": 100 * float(1 - inside.mean())}
    if inside.any():
        found["not_found_percent"] = 100 * float((left[inside] > TOLERANCE_VOX).mean())
    counted = left[inside & unfolded]
    if counted.size:
        found["residual_vox"] = {
            "mean": float(counted.mean()),
            "p99": float(np.percentile(counted, 99)),
            "max": float(counted.max()),
        }
    return found
