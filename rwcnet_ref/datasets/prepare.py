"""From the files of a case to arrays on one grid, at full resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_ref.datasets.files import Files, Structures
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.cases import Case
from rwcnet_runtime.evaluation.measures import landmarks_of
from rwcnet_runtime.formats import is_same_grid
from rwcnet_runtime.geometry import LPS_FROM_RAS
from rwcnet_runtime.labels import warp_labels
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.preprocess import Padding
from rwcnet_runtime.volumes import LabelMap, Volume

Points = NDArray[np.float64]


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on the padded grid of its fixed image.

    Attributes
    ----------
    fixed, moving : ndarray, (i, j, k), float32
        Scaled; the moving image is pulled onto the fixed grid by the initial transform.
    mm_from_voxel : ndarray, (3, 3), float64
        The edges of a voxel in RAS+ mm as columns.
    labels : tuple of Structures, optional
        Fixed and moving label maps, pulled likewise.
    mask : ndarray, (i, j, k), bool, optional
        The fixed mask.
    points : tuple of ndarray, (n, 3), float64, optional
        Fixed landmarks, and where this moving image shows their partners, as voxel indices.
    """

    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    mm_from_voxel: NDArray[np.float64]
    labels: tuple[Structures, Structures] | None
    mask: NDArray[np.bool_] | None
    points: tuple[Points, Points] | None


def prepare(case: Case, files: Files, multiple: int, *, shared_grid: bool = False) -> Prepared:
    """Read a case and bring it onto the grid of its fixed image.

    Parameters
    ----------
    case
        Names the files. The moving mask is not used.
    files
        Reads them.
    multiple
        Each axis is padded with zeros to a multiple of so many voxels, as in inference.
    shared_grid
        Whether equal voxel indices of both files mean one place, as in Learn2Reg, and the header of
        the moving file is not believed.

    Raises
    ------
    InputError
        If a file cannot be used or does not fit the others.
    """
    fixed, moving = files.image(case.fixed), files.image(case.moving)
    if shared_grid and fixed.stored_grid.shape != moving.stored_grid.shape:
        raise InputError(
            f"{case.fixed} has {fixed.stored_grid.shape} voxels and {case.moving} "
            f"{moving.stored_grid.shape} where both share one grid; resample one of them."
        )
    initial = (
        None if case.initial_transform is None else read_initial_transform(case.initial_transform)
    )
    mapping = Mapping(fixed.grid, moving.grid, initial)
    padding = Padding.to_multiple(fixed.grid.shape, multiple)

    def pull(array: NDArray[Any], file: Path) -> NDArray[Any]:
        if shared_grid:
            array = fixed.from_stored(moving.to_stored(array))
        elif initial is not None or not is_same_grid(fixed.grid, moving.grid):
            key = (file, case.fixed, case.moving, case.initial_transform)
            array = files.keep(key, lambda: _pull(array, mapping, moving))
        return padding.apply(array)

    labels = mask = points = None
    if case.fixed_labels and case.moving_labels:
        still = files.structures(case.fixed_labels, fixed)
        other = files.structures(case.moving_labels, moving)
        labels = (
            replace(still, data=padding.apply(still.data)),
            replace(other, data=pull(other.data, case.moving_labels)),
        )
    if case.fixed_mask:
        mask = padding.apply(files.structures(case.fixed_mask, fixed).data > 0)
    if case.fixed_points and case.moving_points:
        there = replace(moving, grid=fixed.grid, stored_grid=fixed.stored_grid)
        points = _points(case, fixed, there if shared_grid else moving, initial)
        points = points[0] + padding.before, points[1] + padding.before
    return Prepared(
        padding.apply(fixed.data),
        pull(moving.data, case.moving),
        fixed.grid.affine[:3, :3],
        labels,
        mask,
        points,
    )


def _pull(array: NDArray[Any], mapping: Mapping, moving: Volume) -> NDArray[Any]:
    """Pull intensities by linear interpolation, indices of structures from the nearest voxel."""
    if array.dtype == np.float32:
        return mapping.resample(array)
    structures = LabelMap(array.astype(np.int32), moving.grid, moving.path)
    pulled = warp_labels(structures, mapping.displacement_mm(), mapping.fixed)
    return pulled.astype(array.dtype)


def _points(
    case: Case, fixed: Volume, moving: Volume, initial: sitk.Transform | None
) -> tuple[Points, Points]:
    """Landmarks inside both images, as voxel indices of the fixed grid."""
    fixed_mm, moving_mm, there, _, _ = landmarks_of(case, fixed, moving)
    fixed_mm, moving_mm = fixed_mm[there], moving_mm[there]
    if initial is not None:
        try:
            back = initial.GetInverse()
        except RuntimeError as error:
            raise InputError(
                f"{case.initial_transform} has no inverse, which landmarks need; give a rigid or "
                "affine transform, or leave the landmarks out."
            ) from error
        to_lps = LPS_FROM_RAS.diagonal()[:3]
        moving_mm = np.array([back.TransformPoint(p) for p in (moving_mm * to_lps).tolist()])
        moving_mm = moving_mm * to_lps
    return fixed.grid.voxel_from_world(fixed_mm), fixed.grid.voxel_from_world(moving_mm)
