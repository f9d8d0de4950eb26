"""What exported graphs are compared on: a model, and inputs of each of its stages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rwcnet_ref.build import build
from rwcnet_ref.config import ModelConfig
from rwcnet_ref.model import Cascade
from rwcnet_ref.pairs import SyntheticSource
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.preprocess import Padding, normalise
from rwcnet_runtime.volumes import read_volume

# Image sizes, rounded up to what the model takes; a stage sees them divided by its resolution, or
# the first patch of that. No axis like another.
SIZES = ((48, 56, 64), (64, 48, 80))
# Largest edge of the part of the user's images that is compared, in voxels of the stage's grid.
LARGEST_EDGE = 64
# The same where the whole chain is compared.
LARGEST_IMAGE = 128


@dataclass(frozen=True)
class Case:
    """Inputs of one stage.

    Fixed and moving are (b, 1, i, j, k); hidden is (b, hidden, i/stride, ...), or None where the
    stage inherits nothing.
    """

    name: str
    fixed: Tensor
    moving: Tensor
    hidden: Tensor | None


def random_weights(config: ModelConfig) -> Cascade:
    """Return an untrained model, always the same, in which a faulty export cannot hide.

    Stored averages and scales of the normalisations are random, since folding the first ones would
    go unnoticed; and flows reach voxels, since warping by nearly nothing is nearly nothing.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cascade = build(config).eval()
        for module in cascade.modules():
            if isinstance(module, nn.BatchNorm3d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.BatchNorm3d | nn.GroupNorm) and module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
        for index in range(len(config.stages)):
            head = cascade.stage(index).head
            assert isinstance(head, nn.Sequential)
            last = head[-1]
            assert isinstance(last, nn.Conv3d)
            nn.init.normal_(last.weight, std=5 / math.sqrt(last.weight[0].numel()))
    return cascade


def read_pair(
    fixed: Path,
    moving: Path,
    multiple: int,
    intensity_range: tuple[float, float] | None = None,
    initial_transform: Path | None = None,
) -> tuple[Tensor, Tensor]:
    """Read two files as the runtime does.

    Parameters
    ----------
    fixed, moving
        3-D volumes; the moving one is resampled on the fixed one's grid.
    multiple
        Axes are padded to a multiple of this.
    intensity_range
        What becomes 0 and 1, as `normalise` takes it.
    initial_transform
        ITK file that maps fixed points to moving points in LPS mm.

    Returns
    -------
    tuple of Tensor
        (1, 1, i, j, k) float32 within 0..1 each.

    Raises
    ------
    InputError
        If a file cannot be used, or the two have no common field of view.
    """
    still, other = read_volume(fixed), read_volume(moving)
    initial = None if initial_transform is None else read_initial_transform(initial_transform)
    mapping = Mapping(still.grid, other.grid, initial)
    if not mapping.inside().any():
        raise InputError(f"{fixed} and {moving} do not overlap in the world: give a pair that does")
    padding = Padding.to_multiple(still.grid.shape, multiple)
    first, second = (
        torch.from_numpy(padding.apply(data))[None, None]
        for data in (
            normalise(still.data, intensity_range),
            mapping.resample(normalise(other.data, intensity_range)),
        )
    )
    return first, second


def _in_cascade(cascade: Cascade, index: int, name: str, fixed: Tensor, moving: Tensor) -> Case:
    """Return what stage `index` is given when two images go through the cascade."""
    factor = cascade.config.stages[index].resolution
    still, other = (cascade.reduce(x, factor) for x in (fixed, moving))
    warped, _, hidden = cascade.entering(still, other, index)
    i, j, k = cascade.patches(index, still.shape[2:])[0].read
    still, other = (x[..., i, j, k] for x in (still, warped))
    return Case(name, still, other, None if hidden is None else hidden[..., i, j, k])


def _rounded_up(size: tuple[int, int, int], multiple: int) -> tuple[int, int, int]:
    i, j, k = (math.ceil(n / multiple) * multiple for n in size)
    return i, j, k


def _middle(images: tuple[Tensor, Tensor], edge: int, multiple: int) -> tuple[Tensor, Tensor]:
    largest = edge // multiple * multiple
    starts = [max(0, length - largest) // 2 for length in images[0].shape[2:]]
    i, j, k = (slice(start, start + largest) for start in starts)
    fixed, moving = (x[..., i, j, k] for x in images)
    return fixed, moving


def whole_pair(cascade: Cascade, images: tuple[Tensor, Tensor] | None) -> Case:
    """Return what the whole chain is compared on.

    Parameters
    ----------
    cascade
        Says what sizes it takes.
    images
        What `read_pair` returns, to compare on the middle of them; None for procedural shapes.
    """
    multiple = cascade.config.multiple
    if images is not None:
        return Case("images", *_middle(images, LARGEST_IMAGE, multiple), None)
    source = SyntheticSource(_rounded_up(SIZES[1], multiple), resolution=1, amplitude=4)
    pair = source.draw(torch.Generator().manual_seed(0))
    return Case("shapes", pair.fixed, pair.moving, None)


def cases(cascade: Cascade, index: int, images: tuple[Tensor, Tensor] | None) -> Iterator[Case]:
    """Yield what one stage is compared on.

    Parameters
    ----------
    cascade
        Run in torch up to the stage, for what the stage is given of the stages below.
    index
        The stage; 0 is the coarsest.
    images
        What `read_pair` returns; the middle of them becomes one more case.
    """
    config, multiple = cascade.config.stages[index], cascade.config.multiple
    random = torch.Generator().manual_seed(index)
    for batch, smallest in enumerate(SIZES, start=1):
        size = _rounded_up(smallest, multiple)
        patch = cascade.patches(index, [n // config.resolution for n in size])[0]
        grid = [s.stop - s.start for s in patch.read]
        fixed, moving = torch.rand((2, batch, 1, *grid), generator=random)
        hidden = None
        if cascade.config.inherits(index):
            coarse = [n // config.stride for n in grid]
            hidden = 2 * torch.rand((batch, config.hidden, *coarse), generator=random) - 1
        yield Case("random", fixed, moving, hidden)
        source = SyntheticSource(size, resolution=1, amplitude=4)
        pairs = [source.draw(random) for _ in range(batch)]
        fixed, moving = (
            torch.cat(x) for x in zip(*((p.fixed, p.moving) for p in pairs), strict=True)
        )
        yield _in_cascade(cascade, index, "shapes", fixed, moving)
    if images is not None:
        fixed, moving = _middle(images, LARGEST_EDGE * config.resolution, multiple)
        yield _in_cascade(cascade, index, "images", fixed, moving)
