"""What lies around the network: two volumes to two small images, a small flow to the fixed grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.bundle import Manifest
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.memory import bytes_needed, memory_at_hand
from rwcnet_runtime.preprocess import Padding, normalise
from rwcnet_runtime.volumes import Volume
from rwcnet_runtime.working_grid import (
    WorkingGrid,
    choose_working_grid,
    coarsened,
    foreground_box,
    in_fixed_voxels,
    preview,
)


@dataclass(frozen=True, eq=False)
class WorkingPair:
    """Two images on the working grid.

    Attributes
    ----------
    working : WorkingGrid
        Made of the fixed grid.
    fixed, moving : ndarray, (i, j, k), float32
        Normalised, on ``working.grid``; the moving one by the initial transform alone.
    moving_values : ndarray, (i, j, k), float32
        The moving image normalised, on `moving_grid`.
    moving_grid : ImageGrid
        That of the moving image, or coarser where the working grid is.
    initial : sitk.Transform, optional
        Fixed to moving points in LPS+ mm.
    multiple : int
        What the network wants sizes to be multiples of.
    """

    working: WorkingGrid
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    moving_values: NDArray[np.float32]
    moving_grid: ImageGrid
    initial: sitk.Transform | None
    multiple: int

    @cached_property
    def _padding(self) -> Padding:
        return Padding.to_multiple(self.working.grid.shape, self.multiple)

    def for_network(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring an image on the working grid to what the network takes, (1, 1, i, j, k)."""
        return self._padding.apply(image)[None, None]

    def from_network(self, flow: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a flow of the network, (1, 3, i, j, k), to the working grid, (3, i, j, k)."""
        return self._padding.remove(flow[0])

    def mapping(self, moving: ImageGrid, flow_vox: NDArray[np.float32]) -> Mapping:
        """Map the fixed grid to a moving one by a flow on the working grid."""
        whole = self.working.fixed
        flow_vox, grid = self.working.extend(flow_vox)
        return Mapping(whole, moving, self.initial, flow_vox, None if grid is whole else grid)

    def working_mapping(self, flow_vox: NDArray[np.float32]) -> Mapping:
        """Map the working grid to `moving_grid`, so that little is held and computed."""
        return Mapping(self.working.grid, self.moving_grid, self.initial, flow_vox)

    def on_working_grid(self, mapping: Mapping) -> Mapping:
        """Map the working grid to `moving_grid` by what maps the fixed grid to the moving one."""
        flow_grid = mapping.flow_grid or mapping.fixed
        return replace(
            mapping, fixed=self.working.grid, moving=self.moving_grid, flow_grid=flow_grid
        )


def prepare(
    fixed: Volume,
    moving: Volume,
    initial: sitk.Transform | None,
    manifest: Manifest,
    bytes_per_voxel: int,
    spacing: float | None = None,
) -> WorkingPair:
    """Normalise two images, choose the working grid and bring them there.

    Parameters
    ----------
    fixed, moving
        As read.
    initial
        Fixed to moving points in LPS+ mm.
    manifest
        Of the bundle: how intensities are scaled.
    bytes_per_voxel
        Memory that the network takes for each voxel of the working grid.
    spacing
        Voxel size of the working grid in mm, if the user wants one.

    Raises
    ------
    InputError
        If an image cannot be used, they do not overlap, or memory is too short.
    """
    fixed_values, values = (_normalised(x, manifest.intensity_range) for x in (fixed, moving))
    coarse = preview(fixed.grid)
    box = foreground_box(
        coarse.average(fixed_values), _sampled(values, moving.grid, initial, coarse.grid)[0]
    )
    memory = memory_at_hand()
    needed = partial(bytes_needed, fixed.data.size, moving.data.size, bytes_per_voxel)
    working = choose_working_grid(
        fixed.grid,
        in_fixed_voxels(box, coarse),
        lambda voxels: needed(voxels) <= memory.usable,
        spacing,
    )
    _check_memory(working, partial(needed, program=False), memory.free)
    image, values, grid = _sampled(values, moving.grid, initial, working.grid)
    if not Mapping(working.grid, grid, initial).inside().any():
        raise InputError(
            f"{fixed.path} and {moving.path} do not overlap in the world: give --init auto, or an "
            "initial transform that brings them together with --initial-transform"
        )
    return WorkingPair(
        working, working.average(fixed_values), image, values, grid, initial, manifest.multiple
    )


def _normalised(volume: Volume, fixed_range: tuple[float, float] | None) -> NDArray[np.float32]:
    try:
        return normalise(volume.data, fixed_range)
    except InputError as error:
        raise InputError(f"{volume.path}: {error}") from error


def _sampled(
    values: NDArray[np.float32], grid: ImageGrid, initial: sitk.Transform | None, onto: ImageGrid
) -> tuple[NDArray[np.float32], NDArray[np.float32], ImageGrid]:
    """Bring a moving image to a grid of the fixed image, and return what it was sampled from."""
    values, grid = coarsened(values, grid, onto.spacing)
    return Mapping(onto, grid, initial).resample(values), values, grid


def _check_memory(working: WorkingGrid, needed: Callable[[int], int], free: int | None) -> None:
    """Refuse what would be killed half-way."""
    need = needed(math.prod(working.grid.shape))
    if free is not None and need > free:
        sizes = " x ".join(f"{mm:.2g}" for mm in working.grid.spacing)
        raise InputError(
            f"the registration needs about {need / 1e9:.1f} GB more and {free / 1e9:.1f} GB are "
            f"free: give a larger --spacing than {sizes} mm, crop the images, or free memory"
        )
