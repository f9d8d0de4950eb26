"""Where an image is cut into overlapping patches of one size."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

# Voxels that go through a graph at once: how many patches that is changes memory and time only,
# never a result.
VOXELS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Patch:
    """Slices along (i, j, k): what a patch reads, what it answers for, and that within it."""

    read: tuple[slice, ...]
    own: tuple[slice, ...]
    inner: tuple[slice, ...]


def _along_axis(length: int, patch: int, halo: int) -> list[tuple[slice, slice, slice]]:
    """Lay as few equal patches as the largest edge allows, spread evenly, cut mid-overlap."""
    if length <= patch:
        return [(slice(0, length),) * 3]
    count = math.ceil((length - 2 * halo) / (patch - 2 * halo))
    edge = math.ceil((length + 2 * halo * (count - 1)) / count)
    starts = [(n * (length - edge)) // (count - 1) for n in range(count)]
    cuts = [0, *((a + edge + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return [
        (
            slice(start, start + edge),
            slice(first, last),
            slice(first - start, last - start),
        )
        for start, first, last in zip(starts, cuts, cuts[1:], strict=False)
    ]


def lay_out(
    shape: tuple[int, ...], patch: int | None, halo: int = 0, parts: int = 1
) -> list[Patch]:
    """Return the patches of an image; all of one size, fixed by the image's size alone.

    Parameters
    ----------
    shape
        Image size (i, j, k).
    patch
        Largest edge of a patch, halo included; None cuts each axis into `parts`.
    halo
        Voxels a patch reads beyond the part it answers for, where the image goes on.
    parts
        Patches along each axis where `patch` is None.
    """
    axes = [_along_axis(n, patch or math.ceil(n / parts), halo) for n in shape]
    return [
        Patch(*(tuple(slices) for slices in zip(*place, strict=True)))
        for place in itertools.product(*axes)
    ]


def at_once(patches: list[Patch]) -> int:
    """Return how many patches at most go through a graph at once."""
    voxels: int = math.prod(s.stop - s.start for s in patches[0].read)
    return max(1, VOXELS_AT_ONCE // voxels)
