"""Images that are in memory already: taken as files are, and given back as they came."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import as_itk, decode, from_array, from_itk, from_nifti
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid
from rwcnet_runtime.volumes import (
    LabelMap,
    Volume,
    displacement_as_nifti,
    labels_from,
    volume_as_nifti,
    volume_from,
)

ImageLike: TypeAlias = (
    str | Path | Volume | SpatialImage | sitk.Image | tuple[NDArray[Any], NDArray[Any]]
)
"""A file's path, an image of nibabel or SimpleITK, or an array (i, j, k) and its affine (4, 4),
RAS+ mm from voxel."""


def as_volume(image: ImageLike, name: str) -> Volume:
    """Bring an image of any kind to the axes closest to RAS+.

    Parameters
    ----------
    image
        A path is read.
    name
        What messages call an image that has no path: "fixed", "moving".

    Raises
    ------
    InputError
        As `read_volume`, if it is of none of these kinds, or an array does not fit its affine.
    """
    return image if isinstance(image, Volume) else volume_from(*_decoded(image, name))


def as_labels(image: ImageLike, name: str) -> LabelMap:
    """Bring a label map or a mask of any kind to the axes closest to RAS+.

    Raises
    ------
    InputError
        As `read_labels`, and as `as_volume` does.
    """
    return labels_from(*_decoded(image, name))


def source_of(image: ImageLike | None) -> str | None:
    """Return what a report says of where an image came from: its path, or the kind."""
    match image:
        case None:
            return None
        case str() | Path():
            return str(image)
        case Volume():
            return str(image.path)
        case SpatialImage():
            return "nibabel image"
        case sitk.Image():
            return "SimpleITK image"
    return "array"


def image_like(given: ImageLike, array: NDArray[np.float32], grid_of: Volume) -> Any:
    """Return an image as one that was given: SimpleITK's, an array and its affine, or nibabel's.

    Parameters
    ----------
    given
        Whose kind it gets; a path gets an image of nibabel.
    array
        (i, j, k), on ``grid_of.grid``.
    grid_of
        Gives the axes: those that its file or image was stored in.
    """
    match given:
        case sitk.Image():
            return as_itk(grid_of.to_stored(array), grid_of.stored_grid)
        case tuple():
            return grid_of.to_stored(array), grid_of.stored_grid.affine
    return volume_as_nifti(array, grid_of)


def displacement_like(
    given: ImageLike, displacement_mm: NDArray[np.float32], grid_of: Volume
) -> Any:
    """Return a displacement field as an image that was given, in the convention of its kind.

    Parameters
    ----------
    given
        Whose kind it gets. SimpleITK: a vector image in LPS mm, float64, ready for
        ``DisplacementFieldTransform``. An array: (i, j, k, 3) in RAS mm and its affine. Else an
        image of nibabel as `write_displacement` writes it: 5-D, intent 1007, LPS mm.
    displacement_mm
        (i, j, k, 3), RAS+ mm, on ``grid_of.grid``.
    grid_of
        Gives the axes, see `image_like`. The components follow the world and not the axes.
    """
    match given:
        case sitk.Image():
            lps = displacement_mm.astype(np.float64) * LPS_FROM_RAS.diagonal()[:3]
            return as_itk(grid_of.to_stored(lps), grid_of.stored_grid)
        case tuple():
            return grid_of.to_stored(displacement_mm), grid_of.stored_grid.affine
    return displacement_as_nifti(displacement_mm, grid_of)


def _decoded(image: ImageLike, name: str) -> tuple[NDArray[Any], ImageGrid, Path]:
    path = Path(name)
    match image:
        case str() | Path():
            return *decode(Path(image)), Path(image)
        case Volume():
            return image.to_stored(image.data), image.stored_grid, image.path
        case nib.Nifti1Image():
            return *from_nifti(image, path), path
        case SpatialImage():  # others that nibabel reads, each with a header of its own
            return *from_array(np.asanyarray(image.dataobj), image.affine, path), path
        case sitk.Image():
            return *from_itk(image, path), path
        case (array, affine):
            return *from_array(np.asarray(array), np.asarray(affine), path), path
    raise InputError(
        f"{name} is of the type {type(image).__name__}: give a path, an image of nibabel or "
        "SimpleITK, or an array and its affine"
    )
