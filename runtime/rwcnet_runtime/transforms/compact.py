"""A displacement field in a small part of the space, for archives of many."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.formats.encode import VECTOR, as_nifti, check_suffix, replaced
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid
from rwcnet_runtime.transforms.sampling import sample, slabs
from rwcnet_runtime.volumes import Volume

_STEPS_PER_VOXEL = 128


def write_compact(
    path: Path, displacement_mm: NDArray[np.float32], volume_like: Volume
) -> dict[str, float]:
    """Write every second voxel of a displacement field, rounded.

    The file is a displacement field like any other, NIfTI (i, j, k, 1, 3) of intent 1007 in LPS mm,
    on a grid of twice the spacing whose first voxel is that of the fixed file: ITK, ANTs and
    SimpleITK read it as a transform, and interpolate between its voxels. Its float32 are multiples
    of a power of two, at most 1/128 of a voxel, so that gzip finds their last bits empty: NIfTI
    knows no float16, and ITK 5.4 dies on int16 vectors with a `scl_slope`. nitransforms 25.1 takes
    other values than ITK between the voxels of a field: give it another file.

    Parameters
    ----------
    path : Path
        Ends in `.nii.gz`, as it is not compact without. It is replaced whole or not at all.
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on ``volume_like.grid``.
    volume_like : Volume
        The fixed image.

    Returns
    -------
    dict
        ``mean_mm``, ``p99_mm``, ``max_mm``: distance between the displacement that the file gives
        by linear interpolation and the given one, over all fixed voxels. The header's description
        holds them too.

    Raises
    ------
    InputError
        If `path` has another suffix or cannot be written.
    """
    grid = volume_like.stored_grid
    stored = volume_like.to_stored(displacement_mm)
    step = np.float32(2 ** np.floor(np.log2(grid.spacing.min() / _STEPS_PER_VOXEL)))
    nodes = np.rint(_every_second(stored) / step) * step
    error = _error(stored, nodes)

    coarse = ImageGrid(nodes.shape[:3], grid.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    signs = LPS_FROM_RAS.diagonal()[:3].astype(np.float32)
    image = as_nifti((nodes * signs)[..., None, :], coarse, VECTOR)
    image.header["descrip"] = "half grid, error in mm: " + ", ".join(
        f"{name.removesuffix('_mm')} {value:.4f}" for name, value in error.items()
    )
    check_suffix(path, path.name, (".nii.gz",))
    with replaced(path) as partial:
        nib.save(image, partial)
    return error


def _every_second(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take every second voxel, and past the end of an even axis what goes on straight there."""
    for axis in range(3):
        n = field.shape[axis]
        nodes = field.take(range(0, n, 2), axis)
        if n % 2 == 0:
            last, before = field.take([n - 1], axis), field.take([n - 2], axis)
            nodes = np.concatenate([nodes, 2 * last - before], axis)
        field = nodes
    return field


def _error(field: NDArray[np.float32], nodes: NDArray[np.float32]) -> dict[str, float]:
    distance = np.empty(field.shape[:3], np.float32)
    for slab, x in slabs(field.shape[:3]):
        given = sample(nodes, x.reshape(-1, 3) / 2).reshape(field[slab].shape)
        distance[slab] = np.linalg.norm(given - field[slab], axis=-1)
    return {
        "mean_mm": float(distance.mean()),
        "p99_mm": float(np.percentile(distance, 99)),
        "max_mm": float(distance.max()),
    }
