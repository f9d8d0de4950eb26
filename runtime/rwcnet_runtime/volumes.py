"""Read images and label maps, write images and displacement fields.

In memory a volume lies on the axes closest to RAS+; files keep the axes they came with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import (
    VECTOR,
    as_nifti,
    decode,
    encode,
    is_same_grid,
    load_nifti,
    voxels_of,
    within_memory,
)
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid

_RAS = io_orientation(np.eye(4))
# By 0.05 to 0.15 degrees about each axis: at 45 degrees two axes are equally close, and what is
# closest must not depend on the order of the file's axes nor on the rounding of its header.
_TIE_BREAK = np.array(
    [[1, -0.003, 0.002, 0], [0.003, 1, -0.001, 0], [-0.002, 0.001, 1, 0], [0, 0, 0, 1]]
)


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Volume:
    """An image file, brought to the axes closest to RAS+.

    Attributes
    ----------
    data : ndarray, (i, j, k), float32
        Finite intensities, C-contiguous.
    grid : ImageGrid
        Where `data` lies: axis i runs closest to the patient's right, j to the front, k to the
        head.
    stored_grid : ImageGrid
        Where the same voxels lie in the axis order of the file.
    path : Path
        The file; of an image in memory, what messages call it ("fixed").
    """

    data: NDArray[np.float32]
    grid: ImageGrid
    stored_grid: ImageGrid
    path: Path

    def to_stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring an array on `grid`, (i, j, k, ...), to the axis order and directions of the file.

        Axes are permuted and flipped; values are kept, world vectors among them.
        """
        stored = _closest_axes(self.stored_grid)
        result: NDArray[Any] = apply_orientation(array, ornt_transform(_RAS, stored))
        return result

    def from_stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Undo `to_stored`."""
        return np.ascontiguousarray(apply_orientation(array, _closest_axes(self.stored_grid)))


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map or mask, brought to the axes closest to RAS+.

    Attributes
    ----------
    data : ndarray, (i, j, k), int32
        Labels; 0 is the background.
    grid : ImageGrid
        Where `data` lies.
    path : Path
        The file.
    """

    data: NDArray[np.int32]
    grid: ImageGrid
    path: Path


def read_volume(path: Path) -> Volume:
    """Read an image: one 3-D volume of NIfTI, MetaImage, NRRD or DICOM.

    Parameters
    ----------
    path : Path
        One of `rwcnet_runtime.formats.READABLE`. Trailing axes of length 1 are dropped.

    Raises
    ------
    InputError
        As of `rwcnet_runtime.formats.decode`, or if the image holds NaN or infinite voxels or a
        single intensity, or does not fit into memory.
    """
    with within_memory(path):
        return volume_from(*decode(path), path)


def volume_from(array: NDArray[Any], stored_grid: ImageGrid, path: Path) -> Volume:
    """Bring an image as `decode` returns it to the axes closest to RAS+.

    Raises
    ------
    InputError
        If it holds NaN or infinite voxels or a single intensity.
    """
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, caught below
        data = array.astype(np.float32, copy=False)
    _check_intensities(path, data)
    data, grid = _reoriented(data, stored_grid)
    return Volume(data, grid, stored_grid, path)


def read_labels(path: Path) -> LabelMap:
    """Read a label map or a mask from any format that `read_volume` reads.

    Parameters
    ----------
    path : Path
        Whole numbers in voxels of any type; floats are accepted where they are whole.

    Raises
    ------
    InputError
        If `read_volume` would refuse the file for another reason than a single value, or a voxel
        is no whole number from 0 to 2147483647.
    """
    with within_memory(path):
        return labels_from(*decode(path), path)


def labels_from(array: NDArray[Any], stored_grid: ImageGrid, path: Path) -> LabelMap:
    """Bring a label map as `decode` returns it to the axes closest to RAS+.

    Raises
    ------
    InputError
        If a voxel is no whole number from 0 to 2147483647.
    """
    largest = np.iinfo(np.int32).max
    # NaN compares false with everything, and so is caught too.
    whole = (array >= 0) & (array <= largest) & (array == np.rint(array))
    bad = array.size - np.count_nonzero(whole)
    if bad:
        raise InputError(
            f"{path} holds {bad} voxels such as {array[~whole][0]:g} where labels, whole numbers "
            f"from 0 to {largest}, are needed; give a label map that was not interpolated."
        )
    data, grid = _reoriented(array.astype(np.int32), stored_grid)
    return LabelMap(data, grid, path)


def write_volume(path: Path, array: NDArray[np.float32], volume_like: Volume) -> None:
    """Write an image in the axes and with the affine of another file.

    Parameters
    ----------
    path : Path
        Ends in `.nii`, `.nii.gz`, `.mha` or `.nrrd`. It is replaced whole or not at all.
    array : ndarray, (i, j, k)
        Lies on ``volume_like.grid``; written as float32.
    volume_like : Volume
        Gives the grid and the file's axes.

    Raises
    ------
    InputError
        If `path` has another suffix or cannot be written.
    """
    stored = volume_like.to_stored(array).astype(np.float32, copy=False)
    encode(path, stored, volume_like.stored_grid)


def write_labels(path: Path, labels: NDArray[np.int32], volume_like: Volume) -> None:
    """Write a label map, (i, j, k) int32, as `write_volume` writes an image."""
    encode(path, volume_like.to_stored(labels), volume_like.stored_grid)


def write_displacement(
    path: Path, displacement_mm: NDArray[np.float32], volume_like: Volume
) -> None:
    """Write a displacement field that ITK, ANTs and SimpleITK read as a transform.

    Components are in LPS+ mm, float32; what NIfTI and sheared grids are about, see `encode`.

    Parameters
    ----------
    path : Path
        Ends in `.nii`, `.nii.gz`, `.mha` or `.nrrd`. It is replaced whole or not at all.
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, from a point of the fixed image to its partner in the moving image, on
        ``volume_like.grid``.
    volume_like : Volume
        The fixed image.

    Raises
    ------
    InputError
        If `path` has another suffix or cannot be written.
    """
    encode(path, _stored_lps(displacement_mm, volume_like), volume_like.stored_grid)


def volume_as_nifti(array: NDArray[Any], volume_like: Volume) -> nib.Nifti1Image:
    """Return an image, (i, j, k) on ``volume_like.grid``, in the axes of another file."""
    return as_nifti(volume_like.to_stored(array), volume_like.stored_grid)


def displacement_as_nifti(
    displacement_mm: NDArray[np.float32], volume_like: Volume
) -> nib.Nifti1Image:
    """Return what `write_displacement` writes to NIfTI."""
    vectors = _stored_lps(displacement_mm, volume_like)[..., None, :]
    return as_nifti(vectors, volume_like.stored_grid, VECTOR)


def _stored_lps(displacement_mm: NDArray[np.float32], volume_like: Volume) -> NDArray[np.float32]:
    # Components follow the world and not the array: reorienting the axes leaves them alone.
    signs = LPS_FROM_RAS.diagonal()[:3].astype(np.float32)
    vectors: NDArray[np.float32] = volume_like.to_stored(displacement_mm) * signs
    return vectors


def read_displacement(path: Path, fixed: Volume) -> NDArray[np.float32]:
    """Read a displacement field that `write_displacement`, ITK or ANTs wrote.

    Parameters
    ----------
    path : Path
        NIfTI, (i, j, k, 1, 3), intent 1007, LPS mm, on the grid of the fixed image's file.
    fixed : Volume
        The fixed image.

    Returns
    -------
    ndarray, (i, j, k, 3), float32
        RAS+ mm, on ``fixed.grid``.

    Raises
    ------
    InputError
        If the file is unreadable, no such field, holds NaN or infinite values, or lies elsewhere.
    """
    image = load_nifti(path)
    grid, intent = fixed.stored_grid, int(image.header["intent_code"])
    if image.shape != (*grid.shape, 1, 3) or intent != VECTOR:
        raise InputError(
            f"{path} has shape {image.shape} and NIfTI intent {intent} where a displacement field "
            f"of shape {(*grid.shape, 1, 3)} and intent {VECTOR} is needed; write it as "
            "ITK does, on the grid of the fixed image."
        )
    if not is_same_grid(ImageGrid(grid.shape, image.affine), grid):
        raise InputError(
            f"{path} does not lie on the grid of {fixed.path}; write the field on the grid of the "
            "fixed image."
        )
    with within_memory(path):
        displacement_lps = voxels_of(path, image)[..., 0, :].astype(np.float32)
    if not np.isfinite(displacement_lps).all():
        raise InputError(f"{path} holds NaN or infinite displacements; compute it again.")
    return fixed.from_stored(displacement_lps) * LPS_FROM_RAS.diagonal()[:3].astype(np.float32)


def _check_intensities(path: Path, data: NDArray[np.float32]) -> None:
    bad = data.size - np.count_nonzero(np.isfinite(data))
    if bad:
        raise InputError(
            f"{path} holds {bad} NaN or infinite voxels where finite numbers are needed; "
            "replace them first, by 0 outside the body."
        )
    if data.min() == data.max():
        raise InputError(
            f"{path} holds the value {data.min():g} in every voxel, so there is nothing to "
            "register; check that it is the right file."
        )


def _closest_axes(grid: ImageGrid) -> NDArray[Any]:
    """Return which world axis each array axis is closest to, and its direction, as nibabel does."""
    closest: NDArray[Any] = io_orientation(_TIE_BREAK @ grid.affine)
    return closest


def _reoriented(array: NDArray[Any], stored_grid: ImageGrid) -> tuple[NDArray[Any], ImageGrid]:
    stored = _closest_axes(stored_grid)
    data = np.ascontiguousarray(apply_orientation(array, stored))
    affine = stored_grid.affine @ inv_ornt_aff(stored, stored_grid.shape)
    return data, ImageGrid(data.shape, affine)
