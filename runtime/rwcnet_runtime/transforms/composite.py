"""One ITK file of the linear start and what the registration added to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.formats.encode import as_itk, check_suffix, replaced
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid
from rwcnet_runtime.transforms.sampling import slabs
from rwcnet_runtime.volumes import Volume


def write_composite(
    path: Path,
    displacement_mm: NDArray[np.float32],
    volume_like: Volume,
    initial: sitk.Transform | None = None,
) -> None:
    """Write an ITK composite transform that SimpleITK, ITK, ANTs and 3D Slicer read.

    The file maps fixed to moving points in LPS mm, first by a displacement field, then, if
    `initial` is linear, by it, as one affine transform T. The field is ``T^-1 (x + d(x)) - x``:
    both together are what `displacement_mm` says, and a program that applies the file interpolates
    once. Beyond the field ITK applies T alone. SimpleITK writes float64, uncompressed: 24 bytes a
    voxel.

    Parameters
    ----------
    path : Path
        Ends in `.h5`. It is replaced whole or not at all.
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, initial transform included, on ``volume_like.grid``.
    volume_like : Volume
        The fixed image.
    initial : sitk.Transform, optional
        Where the registration started. Only a linear one is kept apart.

    Raises
    ------
    InputError
        If `path` has another suffix or cannot be written.
    """
    grid = volume_like.stored_grid
    stored = volume_like.to_stored(displacement_mm)
    parts: list[sitk.Transform] = []
    if initial is not None and initial.IsLinear():
        linear = matrix_of(initial)
        parts.append(_affine(linear))
        stored = _before(stored, grid, linear)
    vectors = (stored * LPS_FROM_RAS.diagonal()[:3]).astype(np.float64)
    image = as_itk(vectors, grid)
    parts.append(sitk.DisplacementFieldTransform(image))
    check_suffix(path, path.name, (".h5",))
    with replaced(path) as partial:
        try:
            sitk.WriteTransform(sitk.CompositeTransform(parts), str(partial))
        except RuntimeError as error:
            raise OSError("ITK cannot write there") from error


def matrix_of(linear: sitk.Transform) -> NDArray[np.float64]:
    """Return what a linear transform of ITK does to points in RAS+ mm, as a (4, 4) matrix."""
    corners = [linear.TransformPoint(point) for point in np.eye(4)[:, :3].tolist()]
    matrix = np.eye(4)
    matrix[:3, 3] = corners[3]
    matrix[:3, :3] = np.subtract(corners[:3], corners[3]).T
    return LPS_FROM_RAS @ matrix @ LPS_FROM_RAS


def _affine(matrix: NDArray[np.float64]) -> sitk.AffineTransform:
    lps = LPS_FROM_RAS @ matrix @ LPS_FROM_RAS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def _before(
    displacement_mm: NDArray[np.float32], grid: ImageGrid, linear: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return what a linear map leaves to a displacement field before it, both on `grid`."""
    back = np.linalg.inv(linear)
    before = np.empty_like(displacement_mm)
    for slab, x in slabs(grid.shape):
        start = grid.world_from_voxel(x)
        before[slab] = (start + displacement_mm[slab]) @ back[:3, :3].T + back[:3, 3] - start
    return before
