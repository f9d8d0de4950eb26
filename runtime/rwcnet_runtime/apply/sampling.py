"""Sample a volume at any list of points, by SimpleITK.

Its resampler takes an image of output points and a transform. Here the output is a row of voxels,
one for each point, and a displacement field moves every voxel of that row to its point: all that
SimpleITK interpolates can be had at scattered points, without a loop in Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray


def as_image(array: NDArray[Any]) -> sitk.Image:
    """Give SimpleITK an array, (i, j, k), whose points are its voxel indices."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return sitk.GetImageFromArray(np.ascontiguousarray(native.T))


def sample(
    image: sitk.Image, voxels: NDArray[np.float64], interpolator: int = sitk.sitkLinear
) -> NDArray[Any]:
    """Sample an image at voxel positions.

    Parameters
    ----------
    image : sitk.Image
        Made by `as_image`.
    voxels : ndarray, (n, 3), float64
        Positions in voxels.
    interpolator : int
        Of SimpleITK.

    Returns
    -------
    ndarray, (n,)
        Of the image's type; 0 outside of [-0.5, size - 0.5) along an axis.
    """
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize((len(voxels), 1, 1))
    resampler.SetInterpolator(interpolator)
    resampler.SetTransform(_scattered(voxels))
    sampled: NDArray[Any] = sitk.GetArrayFromImage(resampler.Execute(image))[0, 0]
    return sampled


def transform_points(transform: sitk.Transform, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply an ITK transform to points, (n, 3), in its own world; (n, 3) float64."""
    moved = sitk.TransformToDisplacementField(
        sitk.CompositeTransform([transform, _scattered(points)]),
        sitk.sitkVectorFloat64,
        (len(points), 1, 1),
    )
    result: NDArray[np.float64] = sitk.GetArrayViewFromImage(moved)[0, 0] + _row(len(points))
    return result


def _row(n: int) -> NDArray[np.float64]:
    return np.stack([np.arange(n), np.zeros(n), np.zeros(n)], axis=1)


def _scattered(points: NDArray[np.float64]) -> sitk.DisplacementFieldTransform:
    """Map voxel n of a row to the nth point."""
    steps = (points - _row(len(points)))[None, None]
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(steps, isVector=True))
