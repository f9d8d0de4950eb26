"""The grid that the network runs on: the fixed image's own, or one cut out of it and made coarser.

Its voxels are whole blocks of fixed voxels, so that nothing is interpolated on the way to it and
voxels are never finer than those of the fixed image. Where blocks are single voxels and nothing is
cut off it is the fixed grid itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid

# As many as FreeSurfer's conformed head has, 256^3: the network saw no larger images, and on a CPU
# more of them take minutes.
MOST_VOXELS = 2**24
# Blocks along an axis that the foreground is looked for in: noise averages out within one.
_PREVIEW = 32
# Share of the way from background to foreground at which a block belongs to the foreground.
_FAINT = 0.1
# Working voxels kept around the foreground, so that what moves there is seen.
_MARGIN = 12
# A crop that keeps more than this share of the voxels saves too little to be worth a change.
_WORTH = 0.8

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class WorkingGrid:
    """A part of the fixed grid in blocks of whole voxels.

    Attributes
    ----------
    fixed : ImageGrid
        What it is made of.
    box : tuple of slice
        The fixed voxels (i, j, k) that it covers.
    factors : tuple of int
        Fixed voxels along each axis that make one of its voxels.
    why : str
        Why its voxels are as large as they are.
    """

    fixed: ImageGrid
    box: Box
    factors: tuple[int, int, int] = (1, 1, 1)
    why: str = "voxels of the fixed image"

    @classmethod
    def whole(cls, fixed: ImageGrid, factors: tuple[int, int, int] = (1, 1, 1)) -> WorkingGrid:
        """Cover all of the fixed grid."""
        return cls(fixed, tuple(slice(0, n) for n in fixed.shape), factors)

    @property
    def is_cropped(self) -> bool:
        """Whether it leaves out a part of the fixed grid."""
        return self.box != WorkingGrid.whole(self.fixed).box

    @cached_property
    def grid(self) -> ImageGrid:
        """Where its voxels lie; the fixed grid itself where it is no other."""
        if self.factors == (1, 1, 1) and not self.is_cropped:
            return self.fixed
        shape = _blocks(self.box, self.factors)
        return _of_blocks(self.fixed, [s.start for s in self.box], self.factors, shape)

    def average(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring an image or a mask from the fixed grid to this one.

        Parameters
        ----------
        data : ndarray, (i, j, k), float32
            Lies on `fixed`.

        Returns
        -------
        ndarray, (i, j, k), float32
            Lies on `grid`: the mean of each block, of a part of one at the end of an axis.
        """
        return block_means(data[self.box], self.factors)

    def extend(self, flow_vox: NDArray[np.float32]) -> tuple[NDArray[np.float32], ImageGrid]:
        """Repeat the border of a flow outwards, as far as the fixed grid goes.

        A flow that ended there would tear the image, and one that faded out would squeeze it.

        Parameters
        ----------
        flow_vox : ndarray, (3, i, j, k), float32
            Lies on `grid`, in its voxels.

        Returns
        -------
        flow_vox : ndarray, (3, i, j, k), float32
            In the same voxels, on more of them.
        grid : ImageGrid
            Where it lies; it covers `fixed`.
        """
        shape = flow_vox.shape[1:]
        axes = list(zip(self.box, self.factors, shape, self.fixed.shape, strict=True))
        before = [math.ceil(cut.start / f) for cut, f, _, _ in axes]
        after = [max(0, math.ceil((n - cut.start) / f) - size) for cut, f, size, n in axes]
        if not any(before + after):
            return flow_vox, self.grid
        whole = np.pad(flow_vox, [(0, 0), *zip(before, after, strict=True)], mode="edge")
        if self.factors == (1, 1, 1):
            return whole, self.fixed
        start = [cut.start - f * b for (cut, f, _, _), b in zip(axes, before, strict=True)]
        return whole, _of_blocks(self.fixed, start, self.factors, whole.shape[1:])

    def describe(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {
            "shape": list(self.grid.shape),
            "spacing_mm": [round(float(mm), 4) for mm in self.grid.spacing],
            "fixed_voxels": [[s.start, s.stop] for s in self.box],
            "factors": list(self.factors),
            "why": self.why + (", around the foreground" if self.is_cropped else ""),
        }


def choose_working_grid(
    fixed: ImageGrid,
    foreground: Box,
    fits: Callable[[int], bool] = lambda voxels: True,
    spacing: float | None = None,
) -> WorkingGrid:
    """Choose the finest working grid with few enough voxels.

    Parameters
    ----------
    fixed
        Grid of the fixed image.
    foreground
        The fixed voxels that show anything, see `foreground_box`.
    fits
        Told a number of voxels, says whether there is memory for them.
    spacing
        Voxel size in mm that the user wants instead, met as closely as whole factors can.

    Raises
    ------
    InputError
        If `spacing` is no length or leaves an axis with one voxel, or nothing fits into memory.
    """
    if spacing is not None:
        wanted = _cropped(fixed, foreground, _factors_near(fixed, spacing))
        return replace(wanted, why=f"--spacing {spacing:g}")
    why = WorkingGrid.why
    for factors in _coarser_and_coarser(fixed):
        found = _cropped(fixed, foreground, factors)
        voxels = math.prod(found.grid.shape)
        if voxels > MOST_VOXELS:
            why = f"at most {MOST_VOXELS / 1e6:.1f} million voxels"
        elif not fits(voxels):
            why = "what the memory of this machine holds"
        else:
            return replace(found, why=why)
    raise InputError(
        f"the memory of this machine does not hold an image of {fixed.shape} voxels and its "
        "displacement: crop or resample the images, or use a larger machine"
    )


def foreground_box(*previews: NDArray[np.float32]) -> Box:
    """Return the smallest box around what is no background, in voxels of the previews.

    Otsu's threshold parts an image into two classes. Dim tissue may be in the lower one, so that
    the foreground begins a tenth of the way from its median to that of the upper class; noise of
    the background is far below that once it is averaged over blocks.

    Parameters
    ----------
    previews : ndarray, (i, j, k), float32
        Normalised images on one coarse grid; the box holds the foreground of all.
    """
    shows = np.zeros(previews[0].shape, bool)
    for blocks in previews:
        smooth = sitk.Median(sitk.GetImageFromArray(blocks))  # of 3^3 blocks: no lone speck counts
        image = sitk.GetArrayFromImage(smooth)
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.Execute(smooth)
        above = image > otsu.GetThreshold()
        if not above.any() or above.all():
            return tuple(slice(0, n) for n in image.shape)
        low, high = np.median(image[~above]), np.median(image[above])
        shows |= image > low + _FAINT * (high - low)
    found = []
    for axis in range(3):
        (places,) = np.nonzero(shows.any(axis=tuple({0, 1, 2} - {axis})))
        found.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(found)


def preview(fixed: ImageGrid) -> WorkingGrid:
    """Return a grid coarse enough to look for the foreground on."""
    i, j, k = (max(1, n // _PREVIEW) for n in fixed.shape)
    return WorkingGrid.whole(fixed, (i, j, k))


def in_fixed_voxels(box: Box, coarse: WorkingGrid) -> Box:
    """Bring a box from the voxels of a grid over all of the fixed one to the fixed voxels."""
    sizes = zip(box, coarse.factors, coarse.fixed.shape, strict=True)
    return tuple(slice(s.start * f, min(s.stop * f, n)) for s, f, n in sizes)


def block_means(data: NDArray[np.float32], factors: tuple[int, ...]) -> NDArray[np.float32]:
    """Average blocks of voxels; at the end of an axis what is there of one.

    Parameters
    ----------
    data : ndarray, (i, j, k), float32
    factors : tuple of int
        Size of a block.
    """
    for axis, factor in enumerate(factors):
        if factor > 1:
            first = np.arange(0, data.shape[axis], factor)
            counts = np.minimum(factor, data.shape[axis] - first).astype(np.float32)
            sums = np.add.reduceat(data, first, axis=axis)
            data = sums / np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
    return data


def coarsened(
    data: NDArray[np.float32], grid: ImageGrid, spacing: NDArray[np.float64]
) -> tuple[NDArray[np.float32], ImageGrid]:
    """Average an image until its voxels are about as large as those it will be sampled at.

    Sampled every few voxels it would show patterns that are not there (aliasing).

    Parameters
    ----------
    data : ndarray, (i, j, k), float32
    grid
        Where it lies.
    spacing : ndarray, (3,)
        In mm along i, j, k, where it will be sampled.

    Returns
    -------
    data : ndarray, (i, j, k), float32
        The same array where voxels are large enough.
    grid : ImageGrid
        Where that lies.
    """
    ratio = np.rint(spacing / grid.spacing).astype(int)
    i, j, k = (max(1, min(r, n // 2)) for r, n in zip(ratio.tolist(), grid.shape, strict=True))
    coarse = WorkingGrid.whole(grid, (i, j, k))
    return coarse.average(data), coarse.grid


def _cropped(fixed: ImageGrid, foreground: Box, factors: tuple[int, int, int]) -> WorkingGrid:
    box = tuple(
        slice(max(0, s.start - _MARGIN * f), min(n, s.stop + _MARGIN * f))
        for s, f, n in zip(foreground, factors, fixed.shape, strict=True)
    )
    kept = math.prod(s.stop - s.start for s in box) / math.prod(fixed.shape)
    return WorkingGrid(fixed, box, factors) if kept <= _WORTH else WorkingGrid.whole(fixed, factors)


def _coarser_and_coarser(fixed: ImageGrid) -> Iterator[tuple[int, int, int]]:
    """Yield factors whose voxels grow, the shortest edges first, until two are left on an axis."""
    factors = [1, 1, 1]
    while all(-(-n // f) > 1 for n, f in zip(fixed.shape, factors, strict=True)):
        yield (factors[0], factors[1], factors[2])
        edges = [mm * (f + 1) for mm, f in zip(fixed.spacing.tolist(), factors, strict=True)]
        smallest = min(edges)
        # Edges of one length grow together, or voxels would be more oblong than they need be.
        factors = [f + (edge <= smallest * 1.01) for f, edge in zip(factors, edges, strict=True)]


def _factors_near(fixed: ImageGrid, spacing: float) -> tuple[int, int, int]:
    if not 0 < spacing < math.inf:
        raise InputError(f"--spacing {spacing:g} is no voxel size: give a length in mm")
    i, j, k = (max(1, round(spacing / mm)) for mm in fixed.spacing)
    if any(-(-n // f) < 2 for n, f in zip(fixed.shape, (i, j, k), strict=True)):
        extent = ", ".join(
            f"{n * mm:.0f}" for n, mm in zip(fixed.shape, fixed.spacing, strict=True)
        )
        raise InputError(
            f"--spacing {spacing:g} leaves fewer than two voxels along an axis of the fixed image, "
            f"which is {extent} mm large: give a smaller one"
        )
    return i, j, k


def _blocks(box: Box, factors: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.ceil((s.stop - s.start) / f) for s, f in zip(box, factors, strict=True))


def _of_blocks(
    grid: ImageGrid, start: list[int], factors: tuple[int, ...], shape: tuple[int, ...]
) -> ImageGrid:
    """Return the grid of the centres of blocks, the first of which begins at voxel `start`."""
    into = np.diag([*factors, 1]).astype(np.float64)
    into[:3, 3] = np.array(start) + (np.array(factors) - 1) / 2
    i, j, k = shape
    return ImageGrid((i, j, k), grid.affine @ into)
