"""Resample an image or a label map once, through a whole chain of transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.apply.chain import Chain
from rwcnet_runtime.apply.pictures import Picture
from rwcnet_runtime.apply.sampling import as_image, sample
from rwcnet_runtime.apply.tally import Tally
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid

INTERPOLATIONS = ("linear", "cubic", "nearest")

_POINTS_AT_ONCE = 1_000_000


def resample(
    picture: Picture,
    chain: Chain,
    grid: ImageGrid,
    *,
    labels: bool,
    interpolation: str,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Picture, Tally]:
    """Pull a picture onto a grid.

    Parameters
    ----------
    picture : Picture
        Image or label map, frame by frame.
    chain : Chain
        From points of `grid` to points of the picture, whichever of them is fixed.
    grid : ImageGrid
        Where the result shall lie.
    labels : bool
        Whether the values are labels. "linear" then interpolates the share of each label and takes
        the largest.
    interpolation : str
        One of `INTERPOLATIONS`; "cubic" is by B-splines.
    progress : callable
        Is told the share that is done.

    Returns
    -------
    Picture
        On `grid`; label maps of the type of the file, images float32. 0 outside of the picture.
    Tally
        Of the voxels.

    Raises
    ------
    InputError
        If the way of interpolating does not fit the picture, or labels are no whole numbers.
    """
    if labels and interpolation == "cubic":
        raise InputError("labels cannot be interpolated by --interpolation cubic; take nearest.")
    frames = picture.frames if picture.frames.ndim == 4 else picture.frames[..., None]
    if not labels:
        frames = frames.astype(np.float32, copy=False)
    elif frames.dtype.kind == "f":  # which ITK does not take for labels
        frames = _whole(frames)
    if interpolation == "cubic" and not np.isfinite(frames).all():
        raise InputError("NaN or infinite voxels spread by --interpolation cubic; take linear.")
    images = [as_image(frames[..., n]) for n in range(frames.shape[3])]
    if interpolation == "cubic":
        images = [sitk.BSplineDecomposition(image) for image in images]
    kind = {
        "cubic": sitk.sitkBSplineResampler,
        "nearest": sitk.sitkNearestNeighbor,
        "linear": sitk.sitkLabelLinear if labels else sitk.sitkLinear,
    }[interpolation]
    result = np.empty((*grid.shape, len(images)), picture.frames.dtype if labels else np.float32)
    tally = Tally()
    for part, points in _points_of(grid):
        moved = chain.move(points)
        tally.add(moved)
        voxels = picture.grid.voxel_from_world(moved.points)
        for n, image in enumerate(images):
            result[..., part, n] = sample(image, voxels, kind).reshape(result[..., part, n].shape)
        progress(part.stop / grid.shape[2])
    frames = result if picture.frames.ndim == 4 else result[..., 0]
    return Picture(frames, grid, picture.timing), tally


def _whole(labels: NDArray[np.floating]) -> NDArray[np.int32]:
    """Return labels that were saved as real numbers."""
    largest = np.iinfo(np.int32).max
    # NaN compares false with everything, and so is caught too.
    whole = (abs(labels) <= largest) & (labels == np.rint(labels))
    bad = labels.size - np.count_nonzero(whole)
    if bad:
        raise InputError(
            f"{bad} voxels such as {labels[~whole][0]:g} are no labels, whole numbers up to "
            f"{largest}; give a label map that was not interpolated, or --image."
        )
    return labels.astype(np.int32)


def _points_of(grid: ImageGrid) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Go through the world points, (n, 3), of a grid by some slices along k at a time."""
    i, j, k = grid.shape
    thickness = max(1, _POINTS_AT_ONCE // (i * j))
    for start in range(0, k, thickness):
        part = slice(start, min(start + thickness, k))
        voxels = np.indices((i, j, part.stop - start)).reshape(3, -1)
        voxels[2] += start
        yield part, grid.world_from_voxel(voxels.T)
