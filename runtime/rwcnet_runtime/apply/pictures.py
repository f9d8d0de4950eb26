"""Images and label maps of one or several frames, in the axes of their file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import (
    as_itk,
    as_nifti,
    decode,
    grid_of_nifti,
    load_nifti,
    voxels_of,
)
from rwcnet_runtime.formats.place import check_real, is_sheared
from rwcnet_runtime.geometry import ImageGrid

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")

# Of all pairs of neighbours that are not both 0, equal are 0.7 to 0.97 in label maps (brain,
# abdomen, spine, hippocampus, lung) and less than 0.13 in images, eight bits of a brain included.
_EQUAL_NEIGHBOURS = 0.5


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Picture:
    """What an image file holds.

    Attributes
    ----------
    frames : ndarray, (i, j, k) or (i, j, k, t)
        Voxels in the axis order of the file, of its type, scaled.
    grid : ImageGrid
        Where they lie.
    timing : tuple, optional
        Time between frames and its unit, as a NIfTI header gives them.
    """

    frames: NDArray[Any]
    grid: ImageGrid
    timing: tuple[float, str] | None = None


def read_picture(path: Path) -> Picture:
    """Read a volume, or a NIfTI file of several.

    Raises
    ------
    InputError
        If `decode` would refuse the file for another reason than several frames.
    """
    if path.name.endswith(NIFTI_SUFFIXES) and path.is_file():
        image = load_nifti(path)
        if len(image.shape) == 4 and image.shape[3] > 1 and min(image.shape[:3]) > 1:
            check_real(path, image.get_data_dtype())
            grid = grid_of_nifti(path, image)
            timing = float(image.header["pixdim"][4]), image.header.get_xyzt_units()[1]
            return Picture(voxels_of(path, image), grid, timing)
    return Picture(*decode(path))


def read_grid(path: Path) -> ImageGrid:
    """Read where the voxels of an image file lie, those of one frame if it has several.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if path.name.endswith(NIFTI_SUFFIXES) and path.is_file():
        image = load_nifti(path)
        if len(image.shape) < 3:
            raise InputError(f"{path} has shape {image.shape} where a volume is needed.")
        return grid_of_nifti(path, image)
    return decode(path)[1]


def looks_like_labels(frames: NDArray[Any]) -> tuple[bool, str]:
    """Tell label maps from images: whole numbers, most of them equal to their neighbours.

    The type of the file does not tell them apart: images may have eight bits, and label maps are
    often saved as floats.

    Returns
    -------
    bool
    str
        Why.
    """
    if frames.dtype.kind == "f" and not np.array_equal(frames, np.rint(frames)):
        return False, "its values are no whole numbers"
    equal = pairs = 0
    for axis in range(3):
        one, other = (
            np.moveaxis(frames, axis, 0)[ends] for ends in (slice(None, -1), slice(1, None))
        )
        present = (one != 0) | (other != 0)
        equal += int(np.count_nonzero(one[present] == other[present]))
        pairs += int(np.count_nonzero(present))
    share = equal / max(pairs, 1)
    return share > _EQUAL_NEIGHBOURS, (
        f"its values are whole numbers and {100 * share:.0f} % of neighbouring voxels are equal"
    )


def write_picture(path: Path, picture: Picture) -> None:
    """Write an image in the format that the name of the file says.

    Raises
    ------
    InputError
        If the format cannot hold it.
    """
    if path.name.endswith(NIFTI_SUFFIXES):
        _write_nifti(path, picture)
    else:
        _write_itk(path, picture)


def check_format(path: Path, grid: ImageGrid, n_frames: int) -> None:
    """Refuse a file name whose format cannot hold a picture; better before the work than after it.

    Raises
    ------
    InputError
        If the name ends in no known suffix, or the format has no several frames or no shear.
    """
    if path.name.endswith(NIFTI_SUFFIXES):
        return
    if not path.name.endswith(ITK_SUFFIXES):
        known = ", ".join((*NIFTI_SUFFIXES, *ITK_SUFFIXES))
        raise InputError(f"{path} ends in none of {known}; choose such an output name with -o.")
    if is_sheared(grid.affine):
        raise InputError(
            f"the reference has a sheared grid, which {path.suffix} cannot say; end the output in "
            ".nii.gz."
        )
    if n_frames > 1:
        raise InputError(f"{n_frames} frames go to a NIfTI file only; end the output in .nii.gz.")


def _write_nifti(path: Path, picture: Picture) -> None:
    image = as_nifti(picture.frames, picture.grid)
    if picture.timing:
        seconds, unit = picture.timing
        image.header.set_xyzt_units("mm", unit)
        image.header["pixdim"][4] = seconds
    nib.save(image, path)


def _write_itk(path: Path, picture: Picture) -> None:
    image = as_itk(picture.frames, picture.grid)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise InputError(
            f"{path.name} could not be written by ITK; is there space left?"
        ) from error
