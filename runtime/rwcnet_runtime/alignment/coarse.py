"""Coarse copies of an image, on which linear registration is fast."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.preprocess import normalise
from rwcnet_runtime.volumes import Volume

_VOXELS_ALONG = (24, 48, 96)  # a side of the coarse, the middle and the fine copy, about
_MARGIN = 2  # voxels around the foreground
_BLOCK = 4  # voxels along a side of what is held out, or not


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Coarse:
    """An image on a grid of equal spacing along its own axes.

    Attributes
    ----------
    image : sitk.Image, float32
        Intensities from 0 to 1, in ITK's LPS mm.
    foreground : sitk.Image, uint8
        1 where the image is brighter than Otsu's threshold, or everywhere if nothing is.
    box : sitk.Image, uint8
        1 in the box around the foreground, two voxels larger on all sides.
    seen, held_out : sitk.Image, uint8
        Every other block of 4^3 voxels of the box: the optimiser sees the former, what is accepted
        is judged on the latter.
    """

    image: sitk.Image
    foreground: sitk.Image
    box: sitk.Image
    seen: sitk.Image
    held_out: sitk.Image


def coarse_pairs(fixed: Volume, moving: Volume) -> list[tuple[Coarse, Coarse]]:
    """Copy both images three times, to the same spacing if they are about as large.

    Parameters
    ----------
    fixed, moving : Volume
        On any grids, sheared ones included.

    Returns
    -------
    list of (Coarse, Coarse)
        Fixed and moving, from coarse to fine: about 24, 48 and 96 voxels along a side, but never
        finer than the smallest spacing of both images. Where one image is more than four times
        as large as the other, its own copies are coarser: twice as many voxels along a side.

    Raises
    ------
    InputError
        If an image has (almost) one intensity above its background.
    """
    sides = [np.cbrt(abs(np.linalg.det(x.grid.affine)) * x.data.size) for x in (fixed, moving)]
    finest = min(fixed.grid.spacing.min(), moving.grid.spacing.min())
    common = np.sqrt(sides[0] * sides[1])
    copies = [
        # The second is about memory: the common spacing may be far too fine for the larger image.
        _copies(x, [max(common / n, side / (2 * n), finest) for n in _VOXELS_ALONG])
        for x, side in zip((fixed, moving), sides, strict=True)
    ]
    return list(zip(*copies, strict=True))


def _copies(volume: Volume, spacings: list[float]) -> list[Coarse]:
    data, grid = _averaged(volume.data, volume.grid, spacings[-1])
    try:
        data = normalise(data)
    except InputError as error:
        raise InputError(f"{volume.path}: {error}") from error
    return [_coarse(data, grid, spacing) for spacing in spacings]


def _coarse(data: NDArray[np.float32], grid: ImageGrid, spacing: float) -> Coarse:
    data, grid = _averaged(data, grid, spacing)
    target, axes = _grid_of_equal_spacing(grid, spacing)
    image = sitk.GetImageFromArray(Mapping(target, grid).resample(data).transpose(2, 1, 0))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin((LPS_FROM_RAS @ target.affine)[:3, 3].tolist())
    image.SetDirection((LPS_FROM_RAS[:3, :3] @ axes).ravel().tolist())
    foreground = sitk.OtsuThreshold(image, 0, 1)
    bright = sitk.GetArrayFromImage(foreground)
    if not bright.any():  # too little is left to tell it from a background
        foreground, bright = foreground + 1, bright + 1
    places = np.argwhere(bright)
    low, high = np.maximum(places.min(axis=0) - _MARGIN, 0), places.max(axis=0) + _MARGIN
    shown = np.zeros(target.shape[::-1], np.uint8)
    shown[tuple(slice(start, stop + 1) for start, stop in zip(low, high, strict=True))] = 1
    odd = sum(index // _BLOCK for index in np.indices(shown.shape)) % 2
    masks = [sitk.GetImageFromArray((shown * mask).astype(np.uint8)) for mask in (1, 1 - odd, odd)]
    for mask in masks:
        mask.CopyInformation(image)
    return Coarse(image, foreground, *masks)


def _averaged(
    data: NDArray[np.float32], grid: ImageGrid, spacing: float
) -> tuple[NDArray[np.float32], ImageGrid]:
    """Average whole voxels, up to the spacing wanted, so that what is left does not alias."""
    factors = [
        max(1, min(int(spacing / own), size))
        for own, size in zip(grid.spacing, grid.shape, strict=True)
    ]
    averaged = sitk.BinShrink(sitk.GetImageFromArray(data.transpose(2, 1, 0)), factors)
    data = sitk.GetArrayViewFromImage(averaged).transpose(2, 1, 0).copy(order="C")
    scale = np.diag([*factors, 1.0])
    scale[:3, 3] = (np.array(factors) - 1) / 2
    return data, ImageGrid(data.shape, grid.affine @ scale)


def _grid_of_equal_spacing(
    grid: ImageGrid, spacing: float
) -> tuple[ImageGrid, NDArray[np.float64]]:
    """Return a grid over the same field of view, with the rotation closest to its axes."""
    left, _, right = np.linalg.svd(grid.affine[:3, :3] / grid.spacing)
    axes = left @ right
    corners = grid.world_from_voxel(
        np.array(list(itertools.product(*((-0.5, size - 0.5) for size in grid.shape))))
    )
    low, high = (corners @ axes).min(axis=0), (corners @ axes).max(axis=0)
    i, j, k = (max(1, round(extent / spacing)) for extent in high - low)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ ((low + high) / 2 - (np.array([i, j, k]) - 1) / 2 * spacing)
    return ImageGrid((i, j, k), affine), axes
