"""What training minimises; every loss is a scalar tensor, less is better."""

from __future__ import annotations

import torch
from torch import Tensor


def displacement_error(flow: Tensor, truth: Tensor) -> Tensor:
    """Mean distance between two flows (b, 3, i, j, k), in their voxels.

    Charbonnier's smooth form of the norm, ``sqrt(|d|^2 + 0.01^2)``: the plain norm has no gradient
    at zero.
    """
    return ((flow - truth).square().sum(1) + 1e-4).sqrt().mean()


def dice_loss(warped: Tensor, fixed: Tensor) -> Tensor:
    """One minus the mean soft Dice over structures (b, c, i, j, k) within 0..1.

    Structures of no more than a voxel in both images together do not count.
    """
    axes = (2, 3, 4)
    # torch.minimum would split the gradient where both are 0, and pull background up.
    overlap = 2 * torch.where(warped < fixed, warped, fixed).sum(axes)
    volume = (warped + fixed).sum(axes)
    there = volume > 1
    if not there.any():
        return warped.sum() * 0
    return 1 - (overlap[there] / volume[there]).mean()


def gradient_penalty(flow: Tensor) -> Tensor:
    """Mean square of a flow's forward differences: small for smooth flows."""
    differences = (flow.diff(dim=axis).square().mean() for axis in (2, 3, 4))
    return torch.stack(list(differences)).mean()
