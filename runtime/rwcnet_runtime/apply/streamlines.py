"""Streamlines of tractography, .trk and .tck, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes
from nibabel.streamlines.header import Field
from nibabel.streamlines.tractogram import LazyTractogram
from nibabel.streamlines.tractogram_file import DataError, HeaderError
from numpy.typing import NDArray

from rwcnet_runtime.apply.chain import Chain
from rwcnet_runtime.apply.tally import Tally
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid

_POINTS_AT_ONCE = 200_000
_UNREADABLE = (HeaderError, DataError, ValueError, TypeError, LookupError)


def move_streamlines(source: Path, target: Path, chain: Chain, grid: ImageGrid | None) -> Tally:
    """Write a file of streamlines with all its points moved; what is known of them stays.

    Parameters
    ----------
    source, target : Path
        Both ``.trk`` or both ``.tck``.
    chain : Chain
        For points, RAS+ mm.
    grid : ImageGrid, optional
        Of the image that the streamlines belong to now, in the axis order of its file; needed for
        ``.trk``, whose header holds it.

    Returns
    -------
    Tally
        Of the points.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    tally = Tally()
    try:
        found = nib.streamlines.load(source, lazy_load=True).tractogram
        # Not of items: nibabel would read and write those of .trk without the affine to the world.
        moved = LazyTractogram(
            lambda: _moved(found.streamlines, chain, tally),
            found.data_per_streamline,
            found.data_per_point,
            affine_to_rasmm=np.eye(4),
        )
        header = _header(grid) if grid is not None else None
        nib.streamlines.save(moved, str(target), header=header)
    except _UNREADABLE as error:
        raise InputError(f"{source} cannot be read as streamlines ({error}).") from error
    return tally


def _header(grid: ImageGrid) -> dict[str, Any]:
    return {
        Field.VOXEL_TO_RASMM: grid.affine,
        Field.VOXEL_SIZES: grid.spacing,
        Field.DIMENSIONS: grid.shape,
        Field.VOXEL_ORDER: "".join(aff2axcodes(grid.affine)),
    }


def _moved(
    streamlines: Iterator[NDArray[np.float32]], chain: Chain, tally: Tally
) -> Iterator[NDArray[np.float32]]:
    waiting: list[NDArray[np.float32]] = []
    n = 0
    for streamline in streamlines:
        waiting.append(streamline)
        n += len(streamline)
        if n >= _POINTS_AT_ONCE:
            yield from _moved_at_once(waiting, chain, tally)
            waiting, n = [], 0
    if waiting:
        yield from _moved_at_once(waiting, chain, tally)


def _moved_at_once(
    streamlines: list[NDArray[np.float32]], chain: Chain, tally: Tally
) -> list[NDArray[np.float32]]:
    moved = chain.move(np.concatenate(streamlines).astype(np.float64))
    tally.add(moved)
    ends = np.cumsum([len(streamline) for streamline in streamlines])[:-1]
    return np.split(moved.points.astype(np.float32), ends)
