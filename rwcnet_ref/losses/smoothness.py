"""Penalties on a flow alone (b, 3, i, j, k), in voxels of its grid."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def gradient_penalty(flow: Tensor) -> Tensor:
    """Mean square of a flow's forward differences: small for smooth flows."""
    differences = (flow.diff(dim=axis).square().mean() for axis in (2, 3, 4))
    return torch.stack(list(differences)).mean()


def bending_energy(flow: Tensor) -> Tensor:
    """Mean square of a flow's second differences: zero for affine flows.

    The bending energy of Rueckert et al. 1999 (IEEE TMI 18:712), as the mean over the nine second
    derivatives and three components instead of their sum. 0 for a derivative that the grid is too
    small for.
    """
    total = flow.new_zeros(())
    for first, second in itertools.combinations_with_replacement((2, 3, 4), 2):
        bend = flow.diff(dim=first).diff(dim=second)
        # Mixed derivatives occur twice among the nine.
        total = total + (1 if first == second else 2) * bend.square().sum() / max(1, bend.numel())
    return total / 9


def negative_jacobian_penalty(flow: Tensor) -> Tensor:
    """Mean of ``max(0, -J)``: zero where ``x -> x + flow(x)`` keeps its orientation.

    J is the determinant of the map's forward differences, which a fold between neighbouring voxels
    cannot escape as it escapes central ones.
    """
    i, j, k = (n - 1 for n in flow.shape[2:])
    # Columns of the Jacobian: the derivative along an axis, plus that axis' unit vector.
    columns = [
        flow.diff(dim=axis + 2)[:, :, :i, :j, :k] + unit.view(1, 3, 1, 1, 1)
        for axis, unit in enumerate(torch.eye(3, dtype=flow.dtype, device=flow.device))
    ]
    determinant = (columns[0] * torch.linalg.cross(columns[1], columns[2], dim=1)).sum(1)
    penalty: Tensor = (-determinant).clamp(min=0).mean()
    return penalty
