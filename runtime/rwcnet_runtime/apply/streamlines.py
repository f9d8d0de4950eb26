"""Streamlines of tractography, .trk and .tck, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes
from nibabel.streamlines.header import Field
from nibabel.streamlines.tractogram import LazyTractogram, TractogramItem
from nibabel.streamlines.tractogram_file import DataError, HeaderError

from rwcnet_runtime.apply.chain import Chain
from rwcnet_runtime.apply.tally import Tally
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid

_POINTS_AT_ONCE = 200_000
_UNREADABLE = (HeaderError, DataError, ValueError, TypeError, LookupError)


def move_streamlines(
    source: Path, target: Path, chain: Chain, grid: ImageGrid | None, tally: Tally
) -> None:
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
    tally : Tally
        Is told where the points went.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        file = nib.streamlines.load(source, lazy_load=True)
        moved = LazyTractogram.from_data_func(lambda: _moved(file.tractogram, chain, tally))
        moved.affine_to_rasmm = np.eye(4)
        header = _header(grid) if grid is not None else None
        nib.streamlines.save(moved, str(target), header=header)
    except _UNREADABLE as error:
        raise InputError(f"{source} cannot be read as streamlines ({error}).") from error


def _header(grid: ImageGrid) -> dict[str, Any]:
    return {
        Field.VOXEL_TO_RASMM: grid.affine,
        Field.VOXEL_SIZES: grid.spacing,
        Field.DIMENSIONS: grid.shape,
        Field.VOXEL_ORDER: "".join(aff2axcodes(grid.affine)),
    }


def _moved(tractogram: LazyTractogram, chain: Chain, tally: Tally) -> Iterator[TractogramItem]:
    waiting: list[TractogramItem] = []
    n = 0
    for item in tractogram:
        waiting.append(item)
        n += len(item.streamline)
        if n >= _POINTS_AT_ONCE:
            yield from _moved_at_once(waiting, chain, tally)
            waiting, n = [], 0
    if waiting:
        yield from _moved_at_once(waiting, chain, tally)


def _moved_at_once(
    items: list[TractogramItem], chain: Chain, tally: Tally
) -> Iterator[TractogramItem]:
    moved = chain.move(np.concatenate([item.streamline for item in items]).astype(np.float64))
    tally.add(moved)
    ends = np.cumsum([len(item.streamline) for item in items])[:-1]
    for item, points in zip(items, np.split(moved.points, ends), strict=True):
        yield TractogramItem(
            points.astype(np.float32), item.data_for_streamline, item.data_for_points
        )
