"""Write a volume or a field of vectors, in the format that the suffix says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats.itk import quiet
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid

WRITABLE = (".nii", ".nii.gz", ".mha", ".nrrd")

_SCANNER_COORDINATES = 1  # NIfTI code of what an affine leads to


def output_suffix(path: Path) -> str:
    """Return the suffix of results that follow the format of an image: one of `WRITABLE`.

    Of the formats that lie in two files it is the one that lies in one: ``.mha`` for ``.mhd``,
    ``.nrrd`` for ``.nhdr``. DICOM series, pairs of NIfTI and other names give ``.nii.gz``.
    """
    in_one = {".mhd": ".mha", ".nhdr": ".nrrd"}
    suffix = path.suffix.lower()
    suffix = in_one.get(suffix, suffix)
    return suffix if suffix in WRITABLE and not path.is_dir() else ".nii.gz"


def encode(path: Path, stored: NDArray[Any], grid: ImageGrid) -> None:
    """Write an image, or a displacement field as ITK and ANTs read it.

    NIfTI fields are (i, j, k, 1, 3) with intent 1007 (vector): with intent 1006 (displacement
    vector) SimpleITK would flip x and y once more. A quaternion cannot shear, so that of a sheared
    grid NIfTI holds the sform alone, which ITK refuses; MetaImage and NRRD hold any.

    Parameters
    ----------
    path : Path
        Ends in one of `WRITABLE`. It is replaced whole or not at all.
    stored : ndarray, (i, j, k) or (i, j, k, 3)
        Intensities, labels, or displacements in LPS+ mm; on `grid`, in the axis order of the file.
    grid : ImageGrid
        Where they lie.

    Raises
    ------
    InputError
        If `path` has another suffix or cannot be written.
    """
    name = path.name.lower()
    if not name.endswith(WRITABLE):
        raise InputError(
            f"{path} does not end in {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}; choose such an "
            "output name."
        )
    # In the same folder, so that the replacement is one step of the file system; in lower case,
    # by which all writers know a format.
    partial = path.with_name(f".{os.getpid()}-{name}")
    try:
        if name.endswith((".nii", ".nii.gz")):
            nib.save(as_nifti(stored, grid), partial)
        else:
            _save_itk(partial, stored, grid)
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}); choose a folder that "
            "exists, may be written to and has space left."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def as_nifti(stored: NDArray[Any], grid: ImageGrid) -> nib.Nifti1Image:
    """Return what `encode` writes to NIfTI."""
    is_field = stored.ndim == 4
    image = nib.Nifti1Image(stored[..., None, :] if is_field else stored, grid.affine)
    image.header.set_intent("vector" if is_field else "none")
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code=_SCANNER_COORDINATES)
    try:
        image.set_qform(grid.affine, code=_SCANNER_COORDINATES, strip_shears=False)
    except HeaderDataError:  # sheared: leave the qform unset
        image.set_qform(None)
    return image


def _save_itk(path: Path, stored: NDArray[Any], grid: ImageGrid) -> None:
    array = np.moveaxis(stored, (0, 1, 2), (2, 1, 0))
    image = sitk.GetImageFromArray(array, isVector=stored.ndim == 4)
    affine: NDArray[Any] = LPS_FROM_RAS @ grid.affine
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / grid.spacing).ravel().tolist())
    try:
        with quiet():
            sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError("ITK cannot write there") from error
