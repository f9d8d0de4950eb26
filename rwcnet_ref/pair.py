"""A training pair, and what can draw one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor


# eq=False: tensors have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """Two images of one pair on one grid, with what is known about them.

    Attributes
    ----------
    fixed, moving
        (1, 1, i, j, k) float32, intensities as the network takes them: within 0..1, or beyond where
        a fixed range was chosen. The moving image lies on the fixed grid: an initial transform is
        already applied.
    flow
        (1, 3, i, j, k) float32, the true displacement in voxels.
    fixed_labels, moving_labels
        (1, c, i, j, k) float32 within 0..1, how much of a voxel each of c structures fills. Both
        or none.
    fixed_mask
        (1, 1, i, j, k) float32 within 0..1, how much a voxel counts in the losses of images.
    fixed_points, moving_points
        (n, 3) float32, corresponding points as voxel indices of the grid. Both or none. Moving
        points lie where the moving image on this grid shows them.
    mm_from_voxel
        (3, 3) float32, the edges of a voxel in RAS+ mm as columns.
    """

    fixed: Tensor
    moving: Tensor
    mm_from_voxel: Tensor
    flow: Tensor | None = None
    fixed_labels: Tensor | None = None
    moving_labels: Tensor | None = None
    fixed_mask: Tensor | None = None
    fixed_points: Tensor | None = None
    moving_points: Tensor | None = None

    def to(self, device: torch.device | str) -> Pair:
        """Return the pair on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{n: x.to(device) for n, x in values.items() if x is not None})


class PairSource(Protocol):
    """Draws training pairs, all at the resolution of one stage.

    A source holds no random state: a generator in the same state draws the same pair, which is what
    makes resumed training exact.
    """

    def draw(self, random: torch.Generator) -> Pair:
        """Draw a pair, on the device of the generator."""
        ...


class CountedPairs(Protocol):
    """Pairs in an order, for validation: as the files have them, without augmentation."""

    def __len__(self) -> int: ...

    def pair(self, n: int, device: torch.device | str = "cpu") -> Pair:
        """Return pair n on a device."""
        ...
