"""Decode volume files: NIfTI through nibabel, MetaImage and NRRD through SimpleITK.

Both give an array in the axis order of the file and the grid it lies on, in RAS+ mm.
"""

import itertools
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid

READABLE = ".nii, .nii.gz, .mha, .mhd or .nrrd"

_ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
# What nibabel raises for a file that is not NIfTI or is damaged.
_UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,
    MemoryError,
)
_SAME_PLACE_MM = 0.05


def decode(path: Path) -> tuple[NDArray[Any], ImageGrid]:
    """Read a file holding one real-valued 3-D volume.

    Parameters
    ----------
    path : Path
        Ends in one of `READABLE`. Trailing axes of length 1 are dropped.

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
        affine, or a header from which nibabel and ITK would read different places.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {found}; give the path of a volume ({READABLE}).")
    return _decode_itk(path) if path.name.endswith(_ITK_SUFFIXES) else _decode_nifti(path)


def load_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI-1 or NIfTI-2 file without reading its voxels.

    Raises
    ------
    InputError
        If it is none, or damaged.
    """
    try:
        with LoggingOutputSuppressor():  # what is wrong is said once, below
            image = nib.load(path, mmap=False)
    except _UNREADABLE as error:
        raise _not_nifti(path) from error
    if not isinstance(image, nib.Nifti1Image):
        raise _not_nifti(path)
    return image


def voxels_of(path: Path, image: nib.Nifti1Image) -> NDArray[Any]:
    """Read the voxels of an open NIfTI file, scaled as its header says.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    try:
        with LoggingOutputSuppressor():
            return np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise _not_nifti(path) from error


def apart_mm(a: ImageGrid, b: ImageGrid) -> float:
    """Return how far the voxels of two grids of one shape lie apart in mm, at most."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in a.shape))))
    between = a.world_from_voxel(corners) - b.world_from_voxel(corners)
    return float(np.linalg.norm(between, axis=1).max())


def is_same_grid(a: ImageGrid, b: ImageGrid) -> bool:
    """Whether two grids have one shape and lie in one place, to 0.05 mm."""
    return a.shape == b.shape and apart_mm(a, b) <= _SAME_PLACE_MM


def _decode_nifti(path: Path) -> tuple[NDArray[Any], ImageGrid]:
    return from_nifti(load_nifti(path), path)


def from_nifti(image: nib.Nifti1Image, path: Path) -> tuple[NDArray[Any], ImageGrid]:
    """Return what `decode` does of an open file, or an image in memory that messages call `path`.

    Raises
    ------
    InputError
        As `decode`.
    """
    shape = _shape_of_one_volume(path, image.shape)
    _check_real(path, image.get_data_dtype())
    _check_place(path, image.header, shape)
    grid = _grid(path, shape, image.affine)
    return voxels_of(path, image).reshape(shape), grid


def from_array(
    array: NDArray[Any], affine: NDArray[Any], path: Path
) -> tuple[NDArray[Any], ImageGrid]:
    """Return what `decode` does of an array (i, j, k) and its affine, RAS+ mm from voxel.

    Raises
    ------
    InputError
        As `decode`, calling it `path`; and if the affine is not (4, 4).
    """
    shape = _shape_of_one_volume(path, array.shape)
    _check_real(path, array.dtype)
    if affine.shape != (4, 4):
        raise InputError(
            f"{path} has an affine of shape {affine.shape} where (4, 4) is needed; give RAS+ mm "
            "from voxel."
        )
    return array.reshape(shape), _grid(path, shape, affine)


def from_itk(image: sitk.Image, path: Path) -> tuple[NDArray[Any], ImageGrid]:
    """Return what `decode` does of an image of SimpleITK that messages call `path`.

    Raises
    ------
    InputError
        As `decode`.
    """
    if image.GetNumberOfComponentsPerPixel() > 1 or "complex" in image.GetPixelIDTypeAsString():
        raise InputError(
            f"{path} holds {image.GetPixelIDTypeAsString()} voxels where real numbers are needed; "
            "extract one channel first."
        )
    # Trailing axes of length 1 say nothing about where the first three lie.
    shape = _shape_of_one_volume(path, image.GetSize())
    n = image.GetDimension()
    directions = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = directions * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    array = sitk.GetArrayFromImage(image).T.reshape(shape)
    return array, ImageGrid(shape, LPS_FROM_RAS @ affine)


def _decode_itk(path: Path) -> tuple[NDArray[Any], ImageGrid]:
    try:
        with _stderr_closed():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path} cannot be read by ITK or is damaged; give an intact volume ({READABLE})."
        ) from error
    return from_itk(image, path)


def _check_real(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf":
        raise InputError(
            f"{path} holds {dtype} voxels where real numbers are needed; extract one channel first."
        )


def _grid(path: Path, shape: tuple[int, int, int], affine: NDArray[Any]) -> ImageGrid:
    affine = affine.astype(np.float64)
    edges = affine[:3, :3]
    # Relative to a box of the same edges, so that small voxels are not taken for flat ones.
    box = np.prod(np.linalg.norm(edges, axis=0))
    if not np.isfinite(affine).all() or abs(np.linalg.det(edges)) <= 1e-6 * box:
        raise InputError(
            f"{path} has a voxel-to-world matrix that cannot be inverted; "
            "repair the sform or qform of its header."
        )
    return ImageGrid(shape, affine)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keep quiet what ITK's readers print past Python about a damaged file: our error says it."""
    if sys.stderr is None:  # closed already
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _not_nifti(path: Path) -> InputError:
    return InputError(
        f"{path} is not a NIfTI file or is damaged; give an intact volume ({READABLE})."
    )


def _shape_of_one_volume(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    match shape:
        case (i, j, k) if min(i, j, k) > 1:
            return i, j, k
    raise InputError(
        f"{path} has shape {shape} where one 3-D volume of at least two voxels along each axis is "
        "needed; extract or convert one volume first."
    )


def _check_place(path: Path, header: Any, shape: tuple[int, int, int]) -> None:
    """Refuse headers that readers disagree on: a displacement field would mean two things."""
    sform, sform_code = header.get_sform(coded=True)
    try:
        qform, qform_code = header.get_qform(coded=True)
    except (ValueError, HeaderDataError) as error:
        raise InputError(
            f"{path} has a qform that is no rotation; repair its header, or set the qform to the "
            "sform."
        ) from error
    if not sform_code and not qform_code:
        raise InputError(
            f"{path} does not say where its voxels lie (sform and qform code are 0), which readers "
            "guess differently; set its sform first."
        )
    # A qform cannot say what a sheared sform says; that is known, see `write_displacement`.
    if sform_code and qform_code and not _is_sheared(sform):
        largest = apart_mm(ImageGrid(shape, sform), ImageGrid(shape, qform))
        if largest > _SAME_PLACE_MM:
            raise InputError(
                f"{path} has a qform and an sform that differ by {largest:.2g} mm, and readers "
                "choose differently; set one to the other first."
            )


def _is_sheared(affine: NDArray[np.floating]) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3)
