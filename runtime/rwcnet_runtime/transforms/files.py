"""Write one file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid

NIFTI = (".nii", ".nii.gz")
NONE, VECTOR, FSL_DISPLACEMENT = 0, 1007, 2006
"""NIfTI codes of what values are; the last is FSL_FNIRT_DISPLACEMENT_FIELD."""

_SCANNER_COORDINATES = 1  # NIfTI code of what an affine leads to


@contextmanager
def replaced(path: Path, *suffixes: str) -> Iterator[Path]:
    """Give a temporary name beside `path`; what is written there takes its place in the end.

    Raises
    ------
    InputError
        If `path` has none of the suffixes or cannot be written.
    """
    if not path.name.endswith(suffixes):
        raise InputError(f"{path} does not end in {' or '.join(suffixes)}; choose such a name.")
    # In the same folder, so that the replacement is one step of the file system.
    partial = path.with_name(f".{os.getpid()}-{path.name}")
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


def nifti(array: NDArray[Any], grid: ImageGrid, intent: int) -> nib.Nifti1Image:
    """Make a NIfTI image of its array's type, in mm.

    Parameters
    ----------
    array : ndarray, (i, j, k, ...)
        Lies on `grid`.
    grid : ImageGrid
        A quaternion cannot shear, so that a sheared one is in the sform alone.
    intent : int
        NIfTI code of what the values are, one of the above.
    """
    image = nib.Nifti1Image(array, grid.affine)
    image.header.set_intent(intent, allow_unknown=True)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code=_SCANNER_COORDINATES)
    try:
        image.set_qform(grid.affine, code=_SCANNER_COORDINATES, strip_shears=False)
    except HeaderDataError:
        image.set_qform(None)
    return image
