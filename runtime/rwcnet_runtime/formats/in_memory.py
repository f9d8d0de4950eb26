"""Images that are in memory already, checked as those of files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats.nifti import UNREADABLE, grid_of_nifti
from rwcnet_runtime.formats.place import check_affine, check_real, grid_of_itk, one_volume
from rwcnet_runtime.geometry import ImageGrid


def from_nifti(image: nib.Nifti1Image, path: Path) -> tuple[NDArray[Any], ImageGrid]:
    """Return what `decode` does, of an image of nibabel that messages call `path`.

    Raises
    ------
    InputError
        As `decode`.
    """
    shape = one_volume(path, image.shape)
    check_real(path, image.get_data_dtype())
    check_affine(path, image.affine)
    grid = grid_of_nifti(path, image)
    try:
        return np.asanyarray(image.dataobj).reshape(shape), grid
    except UNREADABLE as error:
        raise InputError(
            f"the voxels of {path} cannot be read ({error}); load it again."
        ) from error


def from_array(
    array: NDArray[Any], affine: NDArray[Any], path: Path
) -> tuple[NDArray[Any], ImageGrid]:
    """Return what `decode` does, of an array (i, j, k) and its affine, RAS+ mm from voxel.

    Raises
    ------
    InputError
        As `decode`, calling it `path`; and if the affine is not (4, 4).
    """
    shape = one_volume(path, array.shape)
    check_real(path, array.dtype)
    if affine.shape != (4, 4):
        raise InputError(
            f"{path} has an affine of shape {affine.shape} where (4, 4) is needed; give RAS+ mm "
            "from voxel."
        )
    check_affine(path, affine)
    return array.reshape(shape), ImageGrid(shape, affine.astype(np.float64))


def from_itk(image: sitk.Image, path: Path) -> tuple[NDArray[Any], ImageGrid]:
    """Return what `decode` does, of an image of SimpleITK that messages call `path`.

    Raises
    ------
    InputError
        As `decode`.
    """
    kind = image.GetPixelIDTypeAsString()
    if image.GetNumberOfComponentsPerPixel() > 1 or "complex" in kind:
        raise InputError(
            f"{path} holds {kind} voxels where real numbers are needed; extract one channel first."
        )
    shape, grid = grid_of_itk(path, image)
    return sitk.GetArrayFromImage(image).T.reshape(shape), grid
