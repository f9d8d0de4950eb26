"""Decode and encode volume files; arrays keep the axis order of the file, and grids say where.

NIfTI goes through nibabel, MetaImage, NRRD and series of DICOM files through SimpleITK.
"""

from rwcnet_runtime.formats.decode import READABLE, decode
from rwcnet_runtime.formats.encode import VECTOR, WRITABLE, as_itk, as_nifti, encode, output_suffix
from rwcnet_runtime.formats.in_memory import from_array, from_itk, from_nifti
from rwcnet_runtime.formats.itk import quiet
from rwcnet_runtime.formats.limits import check_size, within_memory
from rwcnet_runtime.formats.nifti import grid_of_nifti, load_nifti, voxels_of
from rwcnet_runtime.formats.place import apart_mm, is_same_grid
from rwcnet_runtime.formats.trial import can_be_read

__all__ = [
    "READABLE",
    "VECTOR",
    "WRITABLE",
    "apart_mm",
    "as_itk",
    "as_nifti",
    "can_be_read",
    "check_size",
    "decode",
    "encode",
    "from_array",
    "from_itk",
    "from_nifti",
    "grid_of_nifti",
    "is_same_grid",
    "load_nifti",
    "output_suffix",
    "quiet",
    "voxels_of",
    "within_memory",
]
