"""Displacements in coordinates that know no world: those of Learn2Reg and of FSL.

Both are relative: a point of the fixed file plus the displacement is the point of the moving file,
each in coordinates of its own file, so that they also hold all that lies between the two headers.
With P such coordinates from the world, A the fixed affine, d the displacement in the world::

    r(x) = P_moving (A x + d(x)) - P_fixed A x
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.formats.encode import (
    FSL_DISPLACEMENT,
    NIFTI,
    as_nifti,
    check_suffix,
    replaced,
)
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.transforms.sampling import slabs
from rwcnet_runtime.volumes import Volume

Coordinates = Callable[[ImageGrid], NDArray[np.float64]]
"""Coordinates of a file from the world (RAS+ mm) as a (4, 4) matrix."""


def voxel_from_world(grid: ImageGrid) -> NDArray[np.float64]:
    """Return the matrix to voxel indices of a file, Learn2Reg's coordinates."""
    return np.linalg.inv(grid.affine).astype(np.float64)


def fsl_from_world(grid: ImageGrid) -> NDArray[np.float64]:
    """Return the matrix to FSL's coordinates of a file.

    They are voxel indices times the voxel's size, with the first axis turned around where the
    affine has a positive determinant: ``Nifti.getAffine("voxel", "fsl")`` of fslpy, FSL's library.
    """
    scaled = np.diag([*grid.spacing, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        scaled[0] = [-grid.spacing[0], 0, 0, (grid.shape[0] - 1) * grid.spacing[0]]
    matrix: NDArray[np.float64] = scaled @ np.linalg.inv(grid.affine)
    return matrix


def relative_from_world(
    displacement_mm: NDArray[np.float32], fixed: Volume, moving: Volume, coordinates: Coordinates
) -> NDArray[np.float32]:
    """Turn a displacement in the world into one in coordinates of the files.

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on ``fixed.grid``.
    fixed, moving : Volume
        The images.
    coordinates : callable
        `voxel_from_world` or `fsl_from_world`.

    Returns
    -------
    ndarray, (i, j, k, 3), float32
        In the axis order of the fixed file.
    """
    grid = fixed.stored_grid
    to_fixed, to_moving = coordinates(grid), coordinates(moving.stored_grid)
    across = ((to_moving - to_fixed) @ grid.affine)[:3]
    relative = np.empty((*grid.shape, 3), np.float32)
    stored = fixed.to_stored(displacement_mm)
    for slab, x in slabs(grid.shape):
        relative[slab] = x @ across[:, :3].T + across[:, 3] + stored[slab] @ to_moving[:3, :3].T
    return relative


def world_from_relative(
    relative: NDArray[np.floating], fixed: Volume, moving: Volume, coordinates: Coordinates
) -> NDArray[np.float32]:
    """Undo `relative_from_world`."""
    grid = fixed.stored_grid
    back = np.linalg.inv(coordinates(moving.stored_grid))
    across = ((back @ coordinates(grid) - np.eye(4)) @ grid.affine)[:3]
    stored = np.empty((*grid.shape, 3), np.float32)
    for slab, x in slabs(grid.shape):
        stored[slab] = x @ across[:, :3].T + across[:, 3] + relative[slab] @ back[:3, :3].T
    return fixed.from_stored(stored)


def write_learn2reg(
    path: Path, displacement_mm: NDArray[np.float32], fixed: Volume, moving: Volume
) -> None:
    """Write a displacement field as Learn2Reg evaluates it, usually ``disp_<fix>_<mov>.nii.gz``.

    (i, j, k, 3) float32 in the axis order of the fixed file: a voxel of it plus the displacement
    is the index of a voxel of the moving file
    (https://github.com/MDL-UzL/L2R/tree/main/evaluation).

    Parameters
    ----------
    path : Path
        Ends in `.nii` or `.nii.gz`. It is replaced whole or not at all.
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on ``fixed.grid``.
    fixed, moving : Volume
        The images.

    Raises
    ------
    InputError
        If `path` has another suffix or cannot be written.
    """
    relative = relative_from_world(displacement_mm, fixed, moving, voxel_from_world)
    _write(path, as_nifti(relative, fixed.stored_grid))


def write_fsl(
    path: Path, displacement_mm: NDArray[np.float32], fixed: Volume, moving: Volume
) -> None:
    """Write a displacement field for ``applywarp --rel --ref=FIXED --in=MOVING --warp=...``.

    (i, j, k, 3) float32 with intent 2006 (FSL_FNIRT_DISPLACEMENT_FIELD), relative, in FSL's
    coordinates. Without ``--rel`` FSL guesses from the values whether they are relative, and may
    guess wrong where the headers turn the images against each other.

    Parameters
    ----------
    path : Path
        Ends in `.nii` or `.nii.gz`. It is replaced whole or not at all.
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on ``fixed.grid``.
    fixed, moving : Volume
        The images, as FSL gets them.

    Raises
    ------
    InputError
        If `path` has another suffix or cannot be written.
    """
    relative = relative_from_world(displacement_mm, fixed, moving, fsl_from_world)
    _write(path, as_nifti(relative, fixed.stored_grid, FSL_DISPLACEMENT))


def _write(path: Path, image: nib.Nifti1Image) -> None:
    check_suffix(path, path.name, NIFTI)
    with replaced(path) as partial:
        nib.save(image, partial)
