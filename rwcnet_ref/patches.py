"""Cut an image into overlapping patches of one size, and join what comes back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Patch:
    """Slices along (i, j, k): what a patch reads, what it answers for, and that within it."""

    read: tuple[slice, ...]
    own: tuple[slice, ...]
    inner: tuple[slice, ...]


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


def lay_out(
    shape: Sequence[int], *, patch: int | None = None, halo: int = 0, parts: int = 1
) -> list[Patch]:
    """Return the patches of an image, all of one size.

    Parameters
    ----------
    shape
        Image size (i, j, k).
    patch
        Largest edge, halo included; None cuts each axis into `parts`.
    halo
        Voxels a patch reads beyond its own part, where the image goes on.
    parts
        Patches along each axis where `patch` is None.
    """
    axes = []
    for length in shape:
        edge, places = patch_axis(length, patch or math.ceil(length / parts), halo)
        axes.append(
            [
                (
                    slice(start, start + edge),
                    slice(first, last),
                    slice(first - start, last - start),
                )
                for start, first, last in places
            ]
        )
    return [Patch(*zip(*place, strict=True)) for place in itertools.product(*axes)]


def in_patches(
    run: Callable[..., tuple[Tensor, Tensor]], patches: list[Patch], *inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a function of (b, c, i, j, k) tensors patch by patch and join its two results."""
    if len(patches) == 1:
        return run(*inputs)
    joined: list[Tensor] = []
    for patch in patches:
        results = run(*(x[:, :, *patch.read] for x in inputs))
        if not joined:
            joined = [x.new_empty((*x.shape[:2], *inputs[0].shape[2:])) for x in results]
        for whole, part in zip(joined, results, strict=True):
            whole[:, :, *patch.own] = part[:, :, *patch.inner]
    flow, hidden = joined
    return flow, hidden
