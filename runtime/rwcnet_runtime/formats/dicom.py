"""A folder with the DICOM files of one series, through SimpleITK.

ITK sorts slices by their positions but believes that they are evenly spaced, and at right angles
to the axis they are stacked on. Here positions are read from every slice, so that a gap is refused,
and a tilted gantry gives a sheared grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats.itk import said_once
from rwcnet_runtime.formats.limits import check_size
from rwcnet_runtime.formats.place import SAME_PLACE_MM, grid_from_lps, one_volume
from rwcnet_runtime.geometry import ImageGrid

_POSITION, _ORIENTATION, _SPACING = "0020|0032", "0020|0037", "0028|0030"


def decode_dicom(folder: Path) -> tuple[NDArray[np.float32], ImageGrid]:
    """Read the one series of a folder; returns and errors are those of `decode`."""
    with said_once(folder):
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(
            f"{folder} is a folder without DICOM images; give a volume, or a series' folder."
        )
    if len(series) > 1:
        raise InputError(
            f"{folder} holds {len(series)} DICOM series ({', '.join(series)}) where one is needed; "
            "move the files of one into a folder of its own."
        )
    with said_once(folder):
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    slices = [_read_header(folder, file) for file in files]
    columns, rows = _common(folder, slices)
    shape = one_volume(folder, (columns, rows, len(files)))
    grid = grid_from_lps(folder, shape, *_place(folder, slices))
    stored = sum(Path(file).stat().st_size for file in files)
    check_size(folder, columns * rows * len(files), 4, stored=stored, packed=True)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    # Slices may be scaled differently, as in PET: the type of the first would cut off the others.
    reader.SetOutputPixelType(sitk.sitkFloat32)
    with said_once(folder):
        image = reader.Execute()
    return sitk.GetArrayFromImage(image).T.reshape(shape), grid


def _read_header(folder: Path, file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.SetImageIO("GDCMImageIO")
    with said_once(folder):
        reader.ReadImageInformation()
    if reader.GetNumberOfComponents() > 1:
        raise InputError(
            f"{file} holds colours where real numbers are needed; convert it to grey first."
        )
    if any(n > 1 for n in reader.GetSize()[2:]):
        raise InputError(
            f"{file} holds several slices (enhanced DICOM), whose places cannot be checked here; "
            "convert it to NIfTI first, as dcm2niix does."
        )
    return reader


def _numbers(folder: Path, file: sitk.ImageFileReader, key: str) -> list[float]:
    try:
        return [float(number) for number in file.GetMetaData(key).split("\\")]
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{folder} holds {Path(file.GetFileName()).name}, which does not say where its voxels "
            f"lie (DICOM tag {key}); leave out what is no slice of the volume."
        ) from error


def _common(folder: Path, slices: Sequence[sitk.ImageFileReader]) -> tuple[int, int]:
    """Return the size of the slices, which is the same for all of them as their directions are."""

    def about(file: sitk.ImageFileReader) -> NDArray[np.float64]:
        directions, spacing = (_numbers(folder, file, key) for key in (_ORIENTATION, _SPACING))
        return np.array([*file.GetSize()[:2], *directions, *spacing])

    first = about(slices[0])
    for file in slices[1:]:
        other = about(file)
        if first.shape != other.shape or not np.allclose(first, other, rtol=0, atol=1e-3):
            raise InputError(
                f"{folder} holds slices of different sizes, spacings or directions, such as "
                f"{Path(file.GetFileName()).name}; leave out what is no slice of the volume."
            )
    columns, rows = slices[0].GetSize()[:2]
    return columns, rows


def _place(
    folder: Path, slices: Sequence[sitk.ImageFileReader]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the edges of a voxel as columns, and the first voxel, in LPS+ mm.

    From DICOM PS3.3, C.7.6.2.1.1: the first direction is that of a row, the first spacing is that
    between rows.
    """
    positions = np.array([_numbers(folder, file, _POSITION) for file in slices])
    directions = np.array(_numbers(folder, slices[0], _ORIENTATION)).reshape(2, 3)
    between_rows, between_columns = _numbers(folder, slices[0], _SPACING)
    steps = np.diff(positions, axis=0)
    even = (positions[-1] - positions[0]) / max(1, len(steps))
    along = steps @ (even / np.linalg.norm(even)) if even.any() else np.zeros(len(steps))
    if len(steps) and along.min() <= SAME_PLACE_MM:
        raise InputError(
            f"{folder} holds several slices at one position (time points or echoes); move the "
            "files of one volume into a folder of its own."
        )
    off = np.abs(positions - positions[0] - np.outer(np.arange(len(slices)), even)).max()
    if off > 2 * SAME_PLACE_MM:
        raise InputError(
            f"{folder} holds slices between {along.min():.4g} and {along.max():.4g} mm apart, as "
            "when some are missing; complete the series, or resample it to even slices."
        )
    edges = np.stack([directions[0] * between_columns, directions[1] * between_rows, even], axis=1)
    return edges, positions[0]
