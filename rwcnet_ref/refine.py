"""Instance optimisation: improve a flow on the pair itself, by Adam, with the gradient written out.

What is sought is a change of a given flow, on a grid of half the image's size and in its voxels::

    flow = start + S(change)
    loss = mean over x of weight(x) |moving(x + flow(x)) - fixed(x)|^2
           + regularisation * sum over axes of mean |difference of S(change) along the axis|^2

S is a mean over 3^3 voxels with zeros around the grid, three times: it takes the place of a spline
(the Adam part of ConvexAdam, Siebert et al. 2021). The change is regularised and not the flow, so
that what a network found stays where the features say nothing against it.
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


def smooth(change: Tensor) -> Tensor:
    """Apply S to (1, 3, i, j, k).

    S acts on each axis alone, as a symmetric matrix: it is its own adjoint.
    """
    i, j, k = change.shape[2:]
    along_i = (_means(i, change) @ change.reshape(3, i, j * k)).view(3, i, j, k)
    return (_means(j, change) @ along_i @ _means(k, change))[None]


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
        Features, (1, c, i, j, k). Beyond its border the moving image keeps its border values, and
        there the loss has no slope: there is no evidence, and zeros would be some.
    weight
        (1, 1, i, j, k), how much a fixed voxel counts.
    regularisation
        Weight of the second term.
    """
    step = smooth(change)
    axes = [torch.arange(n, dtype=change.dtype) for n in change.shape[2:]]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")) + (start + step)[0]
    last = torch.tensor(change.shape[2:], dtype=change.dtype).view(3, 1, 1, 1) - 1
    scaled = (2 * points / last - 1).flip(0).permute(1, 2, 3, 0)[None]
    warped = F.grid_sample(moving, scaled, padding_mode="border", align_corners=True)
    unlike = (weight * (warped - fixed).square().sum(1, keepdim=True)).mean()
    rough = torch.stack([step.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).sum()
    return unlike + regularisation * rough


class RefinementStep(nn.Module):
    """One step of Adam without autograd: what `refine.onnx` is exported from."""

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
        """Take one step; all in one dtype.

        Parameters
        ----------
        change, mean, square
            (1, 3, i, j, k): what is sought, and Adam's averages of the gradient and its square; all
            zero before the first step.
        step
            (1,): 1 at the first step.
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
        unlike, slope = _similarity(start + smoothed, fixed, moving, weight)
        rough, curl = _roughness(smoothed)
        gradient = smooth(slope + regularisation * curl)
        # In float64, as 1 - 0.999 has few digits left in float32.
        betas = [torch.tensor(beta, dtype=torch.float64) for beta in _BETAS]
        (keep_mean, add_mean), (keep_square, add_square) = (
            (beta.to(change.dtype), (1 - beta).to(change.dtype)) for beta in betas
        )
        mean = keep_mean * mean + add_mean * gradient
        square = keep_square * square + add_square * gradient.square()
        first, second = (1 - beta ** step.double() for beta in betas)
        pace = (rate.double() * second.sqrt() / first).to(change.dtype)
        floor = (_EPSILON * second.sqrt()).to(change.dtype)
        change = change - pace * mean / (square.sqrt() + floor)
        return change, mean, square, unlike + regularisation * rough


def _means(length: int, like: Tensor) -> Tensor:
    """Return the matrix (length, length) of S along one axis."""
    here = torch.arange(length, device=like.device)
    near = ((here - here[:, None]).abs() <= 1).to(like.dtype) / 3
    means: Tensor = torch.linalg.matrix_power(near, _SMOOTHINGS)
    return means


def _similarity(
    flow: Tensor, fixed: Tensor, moving: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the first term of the loss, (1,), and its gradient by the flow.

    Value and derivative come from the same eight corners of a point. With r the difference of the
    features and V those of a corner, |r|^2 changes with that corner's weight by 2 r . V, and the
    weights change with the flow: so eight numbers a point, and not three derivatives of every
    feature, go into the gradient.
    """
    i, j, k = flow.shape[2:]
    channels = fixed.shape[-1]
    cells, shares, free = [], [], []
    for axis, (along, n) in enumerate(zip(flow[0].unbind(), (i, j, k), strict=True)):
        shape = [-1 if other == axis else 1 for other in range(3)]
        points = along + torch.arange(n, dtype=flow.dtype).view(shape)
        inside = points.clamp(0, n - 1)
        cell = inside.floor().clamp(max=n - 2)
        cells.append(cell.long())
        upper = (inside - cell).view(i, 1, j * k)
        shares.append((1 - upper, upper))
        free.append(((points > 0) & (points < n - 1)).to(flow.dtype))
    first = ((cells[0] * j + cells[1]) * k + cells[2]).view(i, 1, j * k)
    to_corner = torch.tensor([(a * j + b) * k + c for a, b, c in _CORNERS])
    # Slab by slab: the rows that a point shares with its neighbours are then still in the cache.
    rows = (first + to_corner.view(1, 8, 1)).view(-1)
    corners = moving.view(-1, channels).index_select(0, rows).view(i, 8, j * k, channels)

    in_i, in_j, in_k = shares
    jk, ik, ij = (_products(*pair) for pair in ((in_j, in_k), (in_i, in_k), (in_i, in_j)))
    shared = torch.cat([share * jk for share in in_i], 1)
    unlike = (corners * shared[..., None]).sum(1) - fixed.view(i, j * k, channels)
    counts = weight.view(i, j * k)
    loss = (counts * unlike.square().sum(2)).mean()[None]

    by_corner = (corners * unlike[:, None]).sum(3).view(i, 2, 2, 2, j * k)
    slopes = []
    for axis, face in enumerate((jk, ik, ij), start=1):
        across = by_corner.select(axis, 1) - by_corner.select(axis, 0)
        slopes.append((across.flatten(1, 2) * face).sum(1).view(i, j, k))
    slope = 2 * weight / _count(counts)
    return loss, slope * (torch.stack(slopes) * torch.stack(free))[None]


def _products(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Return the shares of the four edges that two axes have, (i, 4, n), from (i, 1, n) each."""
    return torch.cat([a * b for a, b in itertools.product(first, second)], 1)


def _roughness(step: Tensor) -> tuple[Tensor, Tensor]:
    """Return the second term of the loss without its weight, (1,), and its gradient."""
    losses, gradients = [], []
    for axis in (2, 3, 4):
        differences = step.diff(dim=axis)
        losses.append(differences.square().mean())
        scaled = 2 * differences / _count(differences)
        ends = 2 * (4 - axis)  # where `pad` takes the front of this axis
        before, after = ([0] * at + [1] + [0] * (5 - at) for at in (ends, ends + 1))
        gradients.append(F.pad(scaled, before) - F.pad(scaled, after))
    return torch.stack(losses).sum()[None], gradients[0] + gradients[1] + gradients[2]


def _count(values: Tensor) -> Tensor:
    """Return how many numbers there are, in their dtype: a graph divides by a size in float32."""
    return torch.scalar_tensor(values.numel(), dtype=values.dtype)
