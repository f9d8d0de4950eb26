"""Write a volume or a field of vectors, in the format that the suffix says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import SimpleITK as sitk  # noqa: N813  (its documented name)
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats.itk import quiet
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid

NIFTI = (".nii", ".nii.gz")
WRITABLE = (".nii", ".nii.gz", ".mha", ".nrrd")

NONE, VECTOR, FSL_DISPLACEMENT = 0, 1007, 2006
"""NIfTI codes of what values are; the last is FSL_FNIRT_DISPLACEMENT_FIELD."""

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
    check_suffix(path, name, WRITABLE)
    with replaced(path) as partial:
        if name.endswith(NIFTI):
            if stored.ndim == 4:
                nib.save(as_nifti(stored[..., None, :], grid, VECTOR), partial)
            else:
                nib.save(as_nifti(stored, grid), partial)
        else:
            _save_itk(partial, stored, grid)


def check_suffix(path: Path, name: str, suffixes: Sequence[str]) -> None:
    """Refuse a name that ends in none of some suffixes; messages call it `path`.

    Raises
    ------
    InputError
        If it does.
    """
    if not name.endswith(tuple(suffixes)):
        *others, last = suffixes
        known = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"{path} does not end in {known}; choose such an output name.")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; what is written there takes its place in the end.

    Raises
    ------
    InputError
        If `path` cannot be written.
    """
    # In the same folder, so that the replacement is one step of the file system; in lower case,
    # by which all writers know a format.
    partial = path.with_name(f".{os.getpid()}-{path.name.lower()}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}); choose a folder that "
            "exists, may be written to and has space left."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def as_nifti(array: NDArray[Any], grid: ImageGrid, intent: int = NONE) -> nib.Nifti1Image:
    """Make a NIfTI image of its array's type, in mm.

    Parameters
    ----------
    array : ndarray, (i, j, k, ...)
        Lies on `grid`.
    grid : ImageGrid
        A quaternion cannot shear, so that a sheared one is in the sform alone.
    intent : int
        NIfTI code of what the values are.
    """
    image = nib.Nifti1Image(array, grid.affine, dtype=array.dtype)
    image.header.set_intent(intent, allow_unknown=True)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code=_SCANNER_COORDINATES)
    try:
        image.set_qform(grid.affine, code=_SCANNER_COORDINATES, strip_shears=False)
    except HeaderDataError:
        image.set_qform(None)
    return image


def as_itk(array: NDArray[Any], grid: ImageGrid) -> sitk.Image:
    """Make an image of SimpleITK, sheared grids too: only some of ITK's files refuse them.

    Parameters
    ----------
    array : ndarray, (i, j, k) or (i, j, k, 3)
        Intensities, or vectors; on `grid`.
    grid : ImageGrid
        Where they lie, in RAS+ mm.
    """
    image = sitk.GetImageFromArray(array.swapaxes(0, 2), isVector=array.ndim == 4)
    affine: NDArray[Any] = LPS_FROM_RAS @ grid.affine
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / grid.spacing).ravel().tolist())
    return image


def _save_itk(path: Path, stored: NDArray[Any], grid: ImageGrid) -> None:
    try:
        with quiet():
            sitk.WriteImage(as_itk(stored, grid), str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError("ITK cannot write there") from error
