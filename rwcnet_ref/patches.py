"""Cut an image into overlapping patches of one size, and join what comes back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import Tensor


def patch_axis(length: int, patch: int, halo: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Lay equal patches along one axis.

    As few patches as fit the largest size; their starts are spread evenly, and each answers for the
    part from the middle of one overlap to the middle of the next.

    Parameters
    ----------
    length, patch, halo
        Voxels along the axis, largest patch edge, and how far a patch reads beyond its own part.

    Returns
    -------
    int
        Edge of every patch.
    list of (start, first, last)
        Where a patch starts, and the range of the axis it answers for.
    """
    if length <= patch:
        return length, [(0, 0, length)]
    count = math.ceil((length - 2 * halo) / (patch - 2 * halo))
    edge = math.ceil((length + 2 * halo * (count - 1)) / count)
    starts = [(n * (length - edge)) // (count - 1) for n in range(count)]
    cuts = [0, *((a + edge + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return edge, [(start, cuts[n], cuts[n + 1]) for n, start in enumerate(starts)]


def in_patches(
    run: Callable[..., tuple[Tensor, Tensor]], *inputs: Tensor, patch: int, halo: int
) -> tuple[Tensor, Tensor]:
    """Run a function of (b, c, i, j, k) tensors patch by patch and join its two results."""
    shape = inputs[0].shape[2:]
    axes = [patch_axis(length, patch, halo) for length in shape]
    joined: list[Tensor] = []
    for place in itertools.product(*(parts for _, parts in axes)):
        cut = tuple(
            slice(start, start + edge) for (start, _, _), (edge, _) in zip(place, axes, strict=True)
        )
        own = tuple(slice(first, last) for _, first, last in place)
        inner = tuple(slice(first - start, last - start) for start, first, last in place)
        results = run(*(x[:, :, *cut] for x in inputs))
        if not joined:
            joined = [x.new_empty((*x.shape[:2], *shape)) for x in results]
        for whole, part in zip(joined, results, strict=True):
            whole[:, :, *own] = part[:, :, *inner]
    flow, hidden = joined
    return flow, hidden
