"""Losses that know what belongs together: labels, keypoints, a true displacement."""

from __future__ import annotations

import torch
from torch import Tensor

from rwcnet_ref.grid import sample

# The plain norm has no gradient at zero, so distances are sqrt(|d|^2 + 0.01^2) in their own unit.
_SMOOTHING = 1e-4


def displacement_error(flow: Tensor, truth: Tensor) -> Tensor:
    """Mean distance between two flows (b, 3, i, j, k), in their voxels.

    Charbonnier's smooth form of the norm, ``sqrt(|d|^2 + 0.01^2)``.
    """
    return ((flow - truth).square().sum(1) + _SMOOTHING).sqrt().mean()


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


def keypoint_distance(
    flow: Tensor, fixed_points: Tensor, moving_points: Tensor, mm_from_voxel: Tensor
) -> Tensor:
    """Mean distance in mm between moved fixed points and their partners.

    Charbonnier's smooth form of the norm, ``sqrt(|d|^2 + 0.01^2)``; 0 where there are no points.

    Parameters
    ----------
    flow
        (1, 3, i, j, k) in voxels.
    fixed_points, moving_points
        (n, 3), voxel indices of the flow's grid. Fixed points lie inside it.
    mm_from_voxel
        (3, 3), the edges of a voxel in mm as columns.
    """
    if not len(fixed_points):
        return flow.sum() * 0
    there = sample(flow, fixed_points.T[None, :, :, None, None])[0, :, :, 0, 0].T
    apart = (fixed_points + there - moving_points) @ mm_from_voxel.T
    return (apart.square().sum(1) + _SMOOTHING).sqrt().mean()
