"""Instance optimisation: improve a flow on the pair itself, by Adam, with the gradient written out.

What is sought is a change of a given flow, on a grid of half the image's size and in its voxels::

    flow = start + S(change)
    loss = mean over x of weight(x) |moving(x + flow(x)) - fixed(x)|^2
         + regularisation * sum over axes of mean |difference of S(change) along the axis|^2

S is a mean over 3^3 voxels with zeros around the grid, three times: it takes the place of a spline
(Siebert et al. 2021, ConvexAdam). The deviation from the start is regularised and not the flow, so
that what a network found stays where the features say nothing against it. As S acts on each axis
alone, it is one symmetric matrix an axis, and its own adjoint.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMOOTHINGS = 3
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_CORNERS = tuple(itertools.product((0, 1), repeat=3))


def smoothing(length: int, like: Tensor) -> Tensor:
    """Return the matrix (length, length) of three zero-padded means over three neighbours."""
    here = torch.arange(length, device=like.device)
    near = ((here - here[:, None]).abs() <= 1).to(like.dtype) / 3
    return torch.linalg.matrix_power(near, _SMOOTHINGS)


def smooth(change: Tensor) -> Tensor:
    """Apply S to (1, c, i, j, k)."""
    _, c, i, j, k = change.shape
    along_i = smoothing(i, change) @ change.reshape(c, i, j * k)
    along_j = smoothing(j, change) @ along_i.reshape(c, i, j, k)
    return (along_j @ smoothing(k, change))[None]


def refinement_loss(
    change: Tensor,
    start: Tensor,
    fixed: Tensor,
    moving: Tensor,
    weight: Tensor,
    regularisation: float,
) -> Tensor:
    """Return the loss that `RefinementStep` descends, for autograd to differentiate.

    Parameters
    ----------
    change, start
        (1, 3, i, j, k), voxels of this grid; every axis has two or more.
    fixed, moving
        Features, (1, c, i, j, k). Beyond its border the moving image keeps its border values: there
        is no evidence there, and zeros would be some.
    weight
        (1, 1, i, j, k), how much a fixed voxel counts.
    regularisation
        Weight of the second term.
    """
    step = smooth(change)
    size = torch.tensor(change.shape[2:], dtype=change.dtype)
    axes = [torch.arange(n, dtype=change.dtype) for n in change.shape[2:]]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    points = points + (start + step)[0].permute(1, 2, 3, 0)
    warped = F.grid_sample(
        moving,
        (2 * points / (size - 1) - 1).flip(-1)[None],
        padding_mode="border",
        align_corners=True,
    )
    unlike = (weight * (warped - fixed).square().sum(1, keepdim=True)).mean()
    rough = sum(step.diff(dim=axis).square().mean() for axis in (2, 3, 4))
    return unlike + regularisation * rough


class RefinementStep(nn.Module):
    """One step of Adam, without autograd: the module that `refine.onnx` is exported from.

    Value and derivative come from the same eight corners V of a point. With r the difference of
    the features, the derivative of |r|^2 by a weight of the interpolation is 2 r . V: a scalar a
    corner. So eight maps, and not three times the features, go into the gradient.
    """

    def forward(
        self,
        change: Tensor,
        mean: Tensor,
        square: Tensor,
        step: Tensor,
        start: Tensor,
        fixed: Tensor,
        moving: Tensor,
        weight: Tensor,
        regularisation: Tensor,
        rate: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take one step.

        Parameters
        ----------
        change, mean, square
            (1, 3, i, j, k): what is sought, and Adam's averages of the gradient and its square; all
            zero before the first step.
        step
            (1,), int64: 1 at the first step.
        start
            (1, 3, i, j, k), the flow to improve.
        fixed, moving
            (1, i, j, k, c): features, channels last.
        weight
            (1, 1, i, j, k), how much a fixed voxel counts.
        regularisation, rate
            (1,): weight of the second term of the loss, and Adam's learning rate.

        Returns
        -------
        change, mean, square
            After the step.
        loss
            (1,), before the step.
        """
        smoothed = smooth(change)
        unlike, slope = self._similarity(start + smoothed, fixed, moving, weight)
        rough, curl = self._roughness(smoothed)
        gradient = smooth(slope + regularisation * curl)
        mean = _BETAS[0] * mean + (1 - _BETAS[0]) * gradient
        square = _BETAS[1] * square + (1 - _BETAS[1]) * gradient.square()
        # In float64, as 1 - 0.999 has few digits left in float32.
        first, second = (1 - beta ** step.double() for beta in _BETAS)
        pace = (rate.double() * second.sqrt() / first).to(change.dtype)
        floor = (_EPSILON * second.sqrt()).to(change.dtype)
        change = change - pace * mean / (square.sqrt() + floor)
        return change, mean, square, unlike + regularisation * rough

    @staticmethod
    def _similarity(
        flow: Tensor, fixed: Tensor, moving: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the first term of the loss, (1,), and its gradient by the flow."""
        _, _, i, j, k = flow.shape
        channels = fixed.shape[-1]
        cells, parts, free = [], [], []
        for axis, (along, n) in enumerate(zip(flow[0].unbind(), (i, j, k), strict=True)):
            shape = [-1 if other == axis else 1 for other in range(3)]
            points = along + torch.arange(n, dtype=flow.dtype).view(shape)
            inside = points.clamp(0, n - 1)
            cell = inside.floor().clamp(max=n - 2)
            cells.append(cell.long())
            part = (inside - cell).view(i, 1, j * k)
            parts.append((1 - part, part))
            free.append(((points > 0) & (points < n - 1)).to(flow.dtype))
        first = ((cells[0] * j + cells[1]) * k + cells[2]).view(i, 1, j * k)
        to_corner = [(a * j + b) * k + c for a, b, c in _CORNERS]
        rows = first + torch.tensor(to_corner).view(1, 8, 1)
        # Slab by slab, so that the eight rows of a point are still in the cache when they are read.
        corners = moving.view(-1, channels).index_select(0, rows.view(-1))
        corners = corners.view(i, 8, j * k, channels)

        (wi, wj, wk) = parts
        ij, ik, jk = (
            torch.cat([a * b for a in first for b in second], 1)
            for first, second in ((wi, wj), (wi, wk), (wj, wk))
        )
        weights = torch.cat([a * jk for a in wi], 1)
        value = (corners * weights[..., None]).sum(1)
        unlike = value - fixed.view(i, j * k, channels)
        counts = weight.view(i, j * k)
        loss = (counts * unlike.square().sum(2)).mean()[None]
        products = (corners * unlike[:, None]).sum(3).view(i, 2, 2, 2, j * k)
        slopes = [
            (((products.select(axis, 1) - products.select(axis, 0)).flatten(1, 2)) * face).sum(1)
            for axis, face in ((1, jk), (2, ik), (3, ij))
        ]
        scale = weight * (2 / counts.numel())
        gradient = scale * torch.stack(free)[None] * torch.stack(slopes).view(1, 3, i, j, k)
        return loss, gradient

    @staticmethod
    def _roughness(step: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second term of the loss, unweighted, (1,), and its gradient."""
        loss, gradient = torch.zeros(1, dtype=step.dtype), torch.zeros_like(step)
        for axis in (2, 3, 4):
            differences = step.diff(dim=axis)
            loss = loss + differences.square().mean()
            before, after = [0] * 6, [0] * 6
            before[2 * (4 - axis)] = after[2 * (4 - axis) + 1] = 1
            doubled = differences * (2 / differences.numel())
            gradient = gradient + F.pad(doubled, before) - F.pad(doubled, after)
        return loss, gradient
