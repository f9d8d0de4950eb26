"""The sizes an engine is built for: from image sizes to what a graph is given of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rwcnet_runtime.bundle import Manifest, StageEntry
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.patches import at_once, lay_out

# Image sizes (i, j, k) in voxels.
Shape: TypeAlias = tuple[int, int, int]
# Batch and grid (b, i, j, k) of an input: the smallest, the usual and the largest.
Sizes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
# Of each input by its name. Plans keep it as JSON, where tuples are lists.
Profile: TypeAlias = Mapping[str, Sequence[Sequence[int]]]

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
    images = _patch_sizes(entry, shapes)
    found = {"fixed": images, "moving": images}
    # Hidden states lie on the grid of the recurrence.
    return found | {"hidden": _divided(images, entry.stride)} if entry.inherits else found


def chain_profile(manifest: Manifest, name: str, shapes: Sequence[Shape]) -> Profile:
    """Return what a graph between stages is given: whole images.

    Parameters
    ----------
    manifest
        Of the bundle.
    name
        "compose.onnx", or "enterN.onnx" with the number of the stage that is entered.
    shapes
        As for `stage_profile`.
    """
    whole = _whole_sizes(shapes)
    if name == "compose.onnx":
        # After each stage but the first, and after that one where flows are integrated.
        finest = manifest.stages[-1].resolution
        smallest = _divided(whole, manifest.stages[0].resolution)[0]
        sizes = (smallest, *_divided(whole, finest)[1:])
        return {"step": sizes, "below": sizes}
    number = int(name.removeprefix("enter").removesuffix(".onnx"))
    below, entered = manifest.stages[number - 2 : number]
    found = {
        "moving": _divided(whole, entered.resolution),
        "flow": _divided(whole, below.resolution),
    }
    grid = below.resolution * below.stride
    return found | {"hidden": _divided(whole, grid)} if entered.inherits else found


def covers(profile: Profile, needed: Profile) -> bool:
    """Return whether an engine built for one profile takes all that another one asks for."""
    return profile.keys() == needed.keys() and all(
        low <= least and most <= high
        for name, (smallest, _, largest) in profile.items()
        for low, high, least, most in zip(
            smallest, largest, needed[name][0], needed[name][2], strict=True
        )
    )


def _whole_sizes(shapes: Sequence[Shape]) -> Sizes:
    axes = list(zip(*shapes, strict=True))
    return (1, *map(min, axes)), (1, *shapes[0]), (1, *map(max, axes))


def _divided(sizes: Sizes, factor: int) -> Sizes:
    smallest, usual, largest = ((b, *(n // factor for n in grid)) for b, *grid in sizes)
    return smallest, usual, largest


def _patch_sizes(entry: StageEntry, shapes: Sequence[Shape]) -> Sizes:
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
