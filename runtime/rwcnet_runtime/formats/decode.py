"""Read a volume of any format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import itk
from rwcnet_runtime.formats.dicom import decode_dicom
from rwcnet_runtime.formats.nifti import decode_nifti
from rwcnet_runtime.geometry import ImageGrid

READABLE = ".nii, .nii.gz, .hdr with .img, .mha, .mhd, .nrrd, .nhdr, or a folder of DICOM files"


def decode(path: Path) -> tuple[NDArray[Any], ImageGrid]:
    """Read one real-valued 3-D volume.

    The size that a header speaks of is compared with the file and the memory before it is believed.

    Parameters
    ----------
    path : Path
        One of `READABLE`. Trailing axes of length 1 are dropped.

    Returns
    -------
    array : ndarray, (i, j, k), integer or float
        Voxels, scaled as the file says, in its axis order.
    grid : ImageGrid
        Where they lie.

    Raises
    ------
    InputError
        If the file is missing or unreadable, is not one real-valued 3-D volume, has no invertible
        affine or a header from which nibabel and ITK would read different places, or is larger than
        memory; if a folder holds no series, several, or one with missing slices.
    MemoryError
        If memory ran out.
    """
    if path.is_dir():
        return decode_dicom(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a volume ({READABLE}).")
    name = path.name.lower()
    if name.endswith((".dcm", ".ima")):
        raise InputError(f"{path} is one file of DICOM; give the folder of its series.")
    return itk.decode_itk(path) if name.endswith(itk.SUFFIXES) else decode_nifti(path)
