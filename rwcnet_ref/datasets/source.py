"""Pairs from the files of cases, at the resolution of a stage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwcnet_ref.augment import Augmentation, augment
from rwcnet_ref.datasets.files import Files, Structures
from rwcnet_ref.datasets.prepare import Prepared, prepare
from rwcnet_ref.grid import downsample
from rwcnet_ref.pair import Pair
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.cases import Case

Reduce = Callable[[Tensor, int], Tensor]
"""Brings an image (1, 1, i, j, k) to a grid coarser by a factor, see `Cascade.reduce`."""


@dataclass(frozen=True)
class CaseSource:
    """Pairs of a list of cases; a `PairSource` and `CountedPairs`.

    Attributes
    ----------
    cases
        What can be drawn.
    files
        Reads their files; sources may share it.
    resolution
        Voxel size of the pairs in voxels of the files.
    multiple
        Each axis is padded to a multiple of so many voxels of the files.
    reduce
        How images come to a coarser grid.
    labels
        Labels that count; empty for all that a pair has.
    shared_grid
        See `prepare`.
    augmentation
        What is done to drawn pairs.
    """

    cases: Sequence[Case]
    files: Files
    resolution: int
    multiple: int
    reduce: Reduce = downsample
    labels: Collection[int] = ()
    shared_grid: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __len__(self) -> int:
        return len(self.cases)

    def pair(self, n: int, device: torch.device | str = "cpu") -> Pair:
        """Return the pair of case n on a device, not augmented.

        Raises
        ------
        InputError
            As `prepare` does, or if the label maps hold no label that counts.
        """
        case = self.cases[n]
        prepared = prepare(case, self.files, self.multiple, shared_grid=self.shared_grid)
        pair = to_pair(prepared, self.resolution, self.reduce, self.labels, torch.device(device))
        if pair.fixed_labels is not None and not pair.fixed_labels.shape[1]:
            raise InputError(
                f"{case.fixed_labels} and {case.moving_labels} hold none of the labels "
                f"{', '.join(map(str, self.labels)) or 'above 0'}; check that they are the right "
                "files."
            )
        return pair

    def draw(self, random: torch.Generator) -> Pair:
        """Draw a case and augment it."""
        n = int(torch.randint(len(self.cases), (), generator=random, device=random.device))
        return augment(self.pair(n, random.device), random, self.augmentation)


def to_pair(
    prepared: Prepared, factor: int, reduce: Reduce, labels: Collection[int], device: torch.device
) -> Pair:
    """Bring a prepared case to a resolution.

    Parameters
    ----------
    prepared
        Axes are multiples of the factor.
    factor
        Voxel size of the pair in voxels of `prepared`.
    reduce
        How images become coarser. Masks, and each label by itself, are averaged.
    labels
        Labels that count; empty for all that are there.
    device
        Of the pair.
    """

    def image(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device).float()[None, None]

    def points(array: NDArray[np.float64]) -> Tensor:
        # Half-pixel: voxel 0 of the coarse grid lies amid the first `factor` fine ones.
        coarse = (array - (factor - 1) / 2) / factor
        return torch.from_numpy(coarse.astype(np.float32)).to(device)

    pair = Pair(
        fixed=reduce(image(prepared.fixed), factor),
        moving=reduce(image(prepared.moving), factor),
        mm_from_voxel=torch.from_numpy((prepared.mm_from_voxel * factor).astype(np.float32)).to(
            device
        ),
    )
    if prepared.labels is not None:
        there = sorted({*prepared.labels[0].labels, *prepared.labels[1].labels} - {0})
        chosen = [n for n in there if n in labels] if labels else there
        still, other = (_shares(found, chosen, factor, device) for found in prepared.labels)
        pair = replace(pair, fixed_labels=still, moving_labels=other)
    if prepared.mask is not None:
        pair = replace(pair, fixed_mask=downsample(image(prepared.mask), factor))
    if prepared.points is not None:
        still, other = (points(found) for found in prepared.points)
        pair = replace(pair, fixed_points=still, moving_points=other)
    return pair


def _shares(
    structures: Structures, chosen: Sequence[int], factor: int, device: torch.device
) -> Tensor:
    """Return how much of each block of factor^3 voxels each chosen label fills, (1, c, i, j, k)."""
    channel = {label: n for n, label in enumerate(chosen)}
    # One more channel takes all that was not chosen.
    lookup = [channel.get(int(label), len(chosen)) for label in structures.labels]
    channels = torch.tensor(lookup, device=device)[
        torch.from_numpy(structures.data.astype(np.int64)).to(device)
    ]
    i, j, k = (n // factor for n in channels.shape)
    block = torch.arange(i * j * k, device=device).view(i, 1, j, 1, k, 1)
    places = channels.view(i, factor, j, factor, k, factor) * block.numel() + block
    filled = torch.zeros((len(chosen) + 1) * block.numel(), device=device)
    # Sums of ones are exact in any order.
    filled.scatter_add_(0, places.flatten(), torch.ones((), device=device).expand(places.numel()))
    return filled.div_(factor**3).view(1, -1, i, j, k)[:, : len(chosen)]
