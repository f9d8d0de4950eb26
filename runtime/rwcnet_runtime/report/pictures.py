"""Pictures of slices: grey, differences, change of volume, and a grid that is deformed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.report.planes import Plane
from rwcnet_runtime.report.png import data_uri, encode

# From below through nothing to above; dark in the middle, as images are dark where nothing is.
_COLOURS = ((166, 220, 255), (38, 124, 208), (17, 22, 28), (222, 108, 22), (255, 214, 138))
FOLD_COLOUR = (255, 46, 214)
_STEPS = 101  # of the scale, odd: the middle is one of them
LARGEST_CHANGE = 4.0
"""Volumes are shown from a quarter to four times as large."""

_LINES = 32  # of the grid along the longest edge of the image
_POINTS = 80  # of a line, about


def _palette() -> NDArray[np.uint8]:
    places = np.linspace(0, len(_COLOURS) - 1, _STEPS)
    channels = [
        np.interp(places, range(len(_COLOURS)), channel) for channel in zip(*_COLOURS, strict=True)
    ]
    return np.vstack([np.rint(np.stack(channels, axis=1)), FOLD_COLOUR]).astype(np.uint8)


def scale_colours() -> list[str]:
    """Return the colours of the scale for a bar, from below to above."""
    return [f"rgb{tuple(colour)}" for colour in _COLOURS]


def grey(picture: NDArray[np.float32]) -> str:
    """Return a picture within 0 (black) and 1 (white) as a data URI."""
    return data_uri(encode(np.rint(255 * picture).astype(np.uint8)))


def signed(picture: NDArray[np.float32], largest: float) -> str:
    """Return a picture in the colours of the scale, -largest..largest, as a data URI."""
    share = (np.clip(picture / largest, -1, 1) + 1) / 2
    return data_uri(encode(np.rint((_STEPS - 1) * share).astype(np.uint8), _palette()))


def volume_change(plane: Plane, determinant: NDArray[np.float32]) -> str:
    """Return the Jacobian determinant in a plane, on a logarithmic scale, as a data URI.

    Where it is 0 or below in any of the voxels of a pixel, the pixel has `FOLD_COLOUR`.
    """
    picture = plane.picture(determinant)
    folded = plane.picture(determinant, np.min) <= 0
    change = np.log(np.maximum(picture, 1e-6)) / np.log(LARGEST_CHANGE)
    index = np.rint((_STEPS - 1) * (np.clip(change, -1, 1) + 1) / 2).astype(np.uint8)
    index[folded] = _STEPS
    return data_uri(encode(index, _palette()))


def closest_affine(displacement_mm: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the affine map of voxel indices that is closest to a displacement (least squares).

    Parameters
    ----------
    displacement_mm : ndarray, (i, j, k, 3), float32

    Returns
    -------
    ndarray, (4, 3), float64
        ``[i, j, k, 1] @ affine`` is in mm.
    """
    some = [np.arange(0, size, max(1, size // 16)) for size in displacement_mm.shape[:3]]
    index = np.stack([*np.meshgrid(*some, indexing="ij"), np.ones([len(n) for n in some])], axis=-1)
    values = displacement_mm[np.ix_(*some)].astype(np.float64)
    affine: NDArray[np.float64] = np.linalg.lstsq(
        index.reshape(-1, 4), values.reshape(-1, 3), rcond=None
    )[0]
    return affine


def grid_lines(
    plane: Plane,
    displacement_mm: NDArray[np.float32],
    affine: NDArray[np.float64],
    grid: ImageGrid,
) -> list[str]:
    """Return a grid that moves along with a displacement, as points of SVG polylines.

    Parameters
    ----------
    plane : Plane
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on `grid`; what leads out of the plane is not seen.
    affine : ndarray, (4, 3)
        `closest_affine`, which is left out: it would carry the grid out of the picture.
    grid : ImageGrid

    Returns
    -------
    list of str
        In mm from the top left corner of the picture.
    """
    width, height = plane.shape
    rows, columns = np.indices((height, width))
    index = np.ones((height, width, 4))
    # Both axes run backwards in the picture.
    index[..., plane.across] = width - 1 - columns
    index[..., plane.down] = height - 1 - rows
    index[..., plane.through] = plane.index
    rest_mm = plane.cut(displacement_mm) - index @ affine
    steps = rest_mm @ np.linalg.inv(grid.affine[:3, :3]).T  # voxels
    across_mm, down_mm = grid.spacing[[plane.across, plane.down]]
    x = (columns + 0.5 - steps[..., plane.across]) * across_mm
    y = (rows + 0.5 - steps[..., plane.down]) * down_mm
    points = np.stack([x, y], axis=-1)
    apart_mm = float(np.max(grid.spacing * grid.shape)) / _LINES
    by_row, by_column = (max(1, round(apart_mm / length)) for length in (down_mm, across_mm))
    lines = [*points[by_row // 2 :: by_row], *points[:, by_column // 2 :: by_column].swapaxes(0, 1)]
    return [" ".join(f"{a:.1f},{b:.1f}" for a, b in _thinned(line)) for line in lines]


def _thinned(line: NDArray[np.float64]) -> NDArray[np.float64]:
    return line[:: max(1, len(line) // _POINTS)]
