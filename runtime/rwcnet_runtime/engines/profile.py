"""The sizes an engine is built for: from image sizes to what a stage is given of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from rwcnet_runtime.bundle import StageEntry
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.patches import at_once, lay_out

# Image sizes (i, j, k) in voxels.
Shape: TypeAlias = tuple[int, int, int]
# Batch and grid (b, i, j, k) of a stage's images: the smallest, the usual and the largest.
Profile: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

# 1 mm heads, then what is rather smaller and larger.
DEFAULT_SHAPES: tuple[Shape, ...] = ((160, 192, 224), (64, 64, 64), (256, 256, 256))


def parse_shape(text: str, multiple: int) -> Shape:
    """Read an image size such as ``160x192x224``.

    Parameters
    ----------
    text
        Three numbers of voxels.
    multiple
        What each must be a multiple of, see `Manifest.multiple`.

    Raises
    ------
    InputError
        If it is no size, or not such a multiple.
    """
    if not re.fullmatch(r"\d{1,5}x\d{1,5}x\d{1,5}", text):
        raise InputError(f"--shape {text} is no image size: give one such as 160x192x224")
    size = [int(number) for number in text.split("x")]
    # The larger of two that are equally near: it holds the image.
    nearest = [max(1, (2 * n + multiple) // (2 * multiple)) * multiple for n in size]
    if size != nearest:
        raise InputError(
            f"--shape {text} does not fit: each axis must be a multiple of {multiple}, and the "
            f"nearest that fits is {'x'.join(map(str, nearest))}"
        )
    i, j, k = size
    return i, j, k


def stage_profile(entry: StageEntry, shapes: Sequence[Shape]) -> Profile:
    """Return what a stage is given of images: whole or in patches, as the runtime cuts them.

    Parameters
    ----------
    entry
        The stage.
    shapes
        Image sizes, multiples of `Manifest.multiple`. The first is the usual one.

    Returns
    -------
    Profile
        Each axis covers what is cut of every image between the smallest and the largest, the batch
        goes up to as many patches as the runtime sends at once of images of the given sizes.
    """
    cut = [
        lay_out(tuple(n // entry.resolution for n in shape), entry.patch, entry.halo, entry.parts)
        for shape in shapes
    ]
    usual = [axis.stop - axis.start for axis in cut[0][0].read]
    batches = [min(len(patches), at_once(patches)) for patches in cut]
    edges = [_edges(entry, lengths) for lengths in zip(*shapes, strict=True)]
    return (1, *map(min, edges)), (batches[0], *usual), (max(batches), *map(max, edges))


def _edges(entry: StageEntry, lengths: Sequence[int]) -> set[int]:
    """Return the edges of patches of all images between the shortest and the longest.

    They do not grow with the image: what is just too long for one patch is cut into two short ones.
    """
    first, last = min(lengths) // entry.resolution, max(lengths) // entry.resolution
    reads = (
        lay_out((n,), entry.patch, entry.halo, entry.parts)[0].read[0]
        for n in range(first, last + 1)
    )
    return {read.stop - read.start for read in reads}
