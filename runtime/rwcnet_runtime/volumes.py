"""Read and write NIfTI volumes and displacement fields.

In memory an image lies on the axes closest to RAS+; files keep the axes they came with.
"""

import itertools
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid

_RAS = io_orientation(np.eye(4))
_SCANNER_COORDINATES = 1  # NIfTI code of what an affine leads to
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
        The file.
    """

    data: NDArray[np.float32]
    grid: ImageGrid
    stored_grid: ImageGrid
    path: Path

    def to_stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring an array on `grid`, (i, j, k, ...), to the axis order and directions of the file.

        Axes are permuted and flipped; values are kept, world vectors among them.
        """
        stored = io_orientation(self.stored_grid.affine)
        result: NDArray[Any] = apply_orientation(array, ornt_transform(_RAS, stored))
        return result


def read_volume(path: Path) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file holding one 3-D volume.

    Parameters
    ----------
    path : Path
        A `.nii` or `.nii.gz` file. Trailing axes of length 1 are dropped.

    Raises
    ------
    InputError
        If the file is missing or unreadable, is not one real-valued 3-D volume, holds NaN or
        infinite voxels or a single intensity, has no invertible affine, or a header from which
        nibabel and ITK would read different places.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {found}; give the path of a NIfTI volume (.nii or .nii.gz).")
    try:
        with LoggingOutputSuppressor():  # what is wrong is said once, below
            image = nib.load(path, mmap=False)
    except _UNREADABLE as error:
        raise _not_nifti(path) from error
    if not isinstance(image, nib.Nifti1Image):
        raise _not_nifti(path)
    shape = _shape_of_one_volume(path, image.shape)
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(
            f"{path} holds {image.get_data_dtype()} voxels where real numbers are needed; "
            "extract one channel first."
        )
    _check_place(path, image.header, shape)
    affine = image.affine.astype(np.float64)
    edges = affine[:3, :3]
    # Relative to a box of the same edges, so that small voxels are not taken for flat ones.
    box = np.prod(np.linalg.norm(edges, axis=0))
    if not np.isfinite(affine).all() or abs(np.linalg.det(edges)) <= 1e-6 * box:
        raise InputError(
            f"{path} has a voxel-to-world matrix that cannot be inverted; "
            "repair the sform or qform of its header."
        )
    try:
        with (
            np.errstate(over="ignore"),
            LoggingOutputSuppressor(),
        ):  # float64 beyond float32 becomes infinite, caught below
            data = image.get_fdata(dtype=np.float32).reshape(shape)
    except _UNREADABLE as error:
        raise _not_nifti(path) from error
    _check_intensities(path, data)
    return _reoriented(data, ImageGrid(shape, affine), path)


def write_volume(path: Path, array: NDArray[np.float32], volume_like: Volume) -> None:
    """Write an image in the axes and with the affine of another file.

    Parameters
    ----------
    path : Path
        Ends in `.nii` or `.nii.gz`. It is replaced whole or not at all.
    array : ndarray, (i, j, k)
        Lies on ``volume_like.grid``; written as float32.
    volume_like : Volume
        Gives the grid and the file's axes.

    Raises
    ------
    InputError
        If `path` has another suffix or cannot be written.
    """
    _write(path, volume_like.to_stored(array), volume_like.stored_grid, intent="none")


def write_displacement(
    path: Path, displacement_mm: NDArray[np.float32], volume_like: Volume
) -> None:
    """Write a displacement field that ITK, ANTs and SimpleITK read as a transform.

    The file is (i, j, k, 1, 3) float32 with NIfTI intent 1007 (vector) and components in LPS+ mm;
    with intent 1006 (displacement vector) SimpleITK would flip x and y once more. ITK refuses
    sheared grids.

    Parameters
    ----------
    path : Path
        Ends in `.nii` or `.nii.gz`. It is replaced whole or not at all.
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
    # Components follow the world and not the array: reorienting the axes leaves them alone.
    displacement_lps = volume_like.to_stored(displacement_mm) * LPS_FROM_RAS.diagonal()[:3]
    _write(path, displacement_lps[..., None, :], volume_like.stored_grid, intent="vector")


def _not_nifti(path: Path) -> InputError:
    return InputError(
        f"{path} is not a NIfTI file or is damaged; give an intact .nii or .nii.gz volume."
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
        corners = np.array(list(itertools.product(*((0, n - 1) for n in shape))))
        apart = ImageGrid(shape, sform).world_from_voxel(corners) - ImageGrid(
            shape, qform
        ).world_from_voxel(corners)
        largest = np.linalg.norm(apart, axis=1).max()
        if largest > _SAME_PLACE_MM:
            raise InputError(
                f"{path} has a qform and an sform that differ by {largest:.2g} mm, and readers "
                "choose differently; set one to the other first."
            )


def _is_sheared(affine: NDArray[np.floating]) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3)


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


def _reoriented(data: NDArray[np.float32], stored_grid: ImageGrid, path: Path) -> Volume:
    stored = io_orientation(stored_grid.affine)
    ras_data = np.ascontiguousarray(apply_orientation(data, stored))
    ras_affine = stored_grid.affine @ inv_ornt_aff(stored, stored_grid.shape)
    return Volume(ras_data, ImageGrid(ras_data.shape, ras_affine), stored_grid, path)


def _write(path: Path, stored: NDArray[Any], grid: ImageGrid, *, intent: str) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path} does not end in .nii or .nii.gz; choose such an output name.")
    image = nib.Nifti1Image(stored.astype(np.float32), grid.affine)
    image.header.set_intent(intent)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code=_SCANNER_COORDINATES)
    try:
        image.set_qform(grid.affine, code=_SCANNER_COORDINATES, strip_shears=False)
    except HeaderDataError:  # a quaternion cannot shear: leave the qform unset
        image.set_qform(None)
    # In the same folder, so that the replacement is one step of the file system.
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        nib.save(image, partial)
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror}); choose a folder that exists, may be "
            "written to and has space left."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
