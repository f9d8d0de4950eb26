"""Local correlation with projection: the definition that every other writing is held to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Moments of real correlations are a few tenths; the motion encoder wants inputs of about one.
_MOMENT_GAIN = 4.0

Metric: TypeAlias = Literal["dot", "absolute_difference"]


def local_correlation(
    fixed: Tensor,
    moving: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    radius: int,
    metric: Metric = "dot",
) -> Tensor:
    """Correlate features within a cube of offsets and project the result.

    ``out[o, x] = bias[o] + sum_k weight[o, k] cost[k, x]``, with k over the (2 radius + 1)^3
    offsets and zeros outside the moving features. With the metric "dot",
    ``cost[k, x] = sum_c fixed[c, x] moving[c, x + k]``. With "absolute_difference" it is
    ``sum_c |fixed[c, x] - moving[c, x + k]|``, averaged over the 3^3 neighbours of x, those beyond
    the border counted as zeros (Sivan 2022, section 3).

    Parameters
    ----------
    fixed, moving
        Feature maps, (b, c, i, j, k).
    weight
        (o, 1, n, n, n) with n = 2 radius + 1: one plane of projection weights an offset, the
        offset -radius first on each axis.
    bias
        (o,).
    radius
        Search radius in voxels.
    metric
        How two feature vectors are compared.

    Returns
    -------
    Tensor
        (b, o, i, j, k).
    """
    n = 2 * radius + 1
    if weight.shape[1:] != (1, n, n, n):
        raise ValueError(
            f"weight is {tuple(weight.shape)}; radius {radius} needs (o, 1, {n}, {n}, {n})"
        )
    if fixed.shape != moving.shape:
        raise ValueError(f"features differ: {tuple(fixed.shape)} and {tuple(moving.shape)}")
    if metric == "dot":
        cost: Tensor = _DotCosts.apply(fixed, moving, radius)  # type: ignore[no-untyped-call]
    else:
        padded = F.pad(moving, (radius,) * 6)
        places = _windows(fixed.shape[2:], radius)
        cost = torch.stack([(fixed - padded[place]).abs().sum(1) for place in places], dim=1)
        cost = F.avg_pool3d(F.pad(cost, (1,) * 6), 3, stride=1)
    # cost is (b, n^3, i, j, k)
    return F.conv3d(cost, weight.reshape(len(weight), n**3, 1, 1, 1), bias)


def _windows(size: Sequence[int], radius: int) -> Iterator[tuple[slice, ...]]:
    """Yield, offset by offset, where the neighbours lie in an array padded by the radius."""
    for start in itertools.product(range(2 * radius + 1), repeat=3):
        place = (slice(a, a + n) for a, n in zip(start, size, strict=True))
        yield slice(None), slice(None), *place


class _DotCosts(torch.autograd.Function):
    """``cost[k, x] = sum_c fixed[c, x] moving[c, x + k]`` with its gradient written out.

    Left to autograd, each offset would leave products and padded gradients of its own behind: three
    times the time on a CPU. In float32, since adding up 125 terms in half precision is slow there
    and not exact anywhere.
    """

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
        ctx.dtype = fixed.dtype
        fixed, moving = fixed.float(), moving.float()
        padded = F.pad(moving, (radius,) * 6)
        cost = fixed.new_empty((len(fixed), (2 * radius + 1) ** 3, *fixed.shape[2:]))
        for n, place in enumerate(_windows(fixed.shape[2:], radius)):
            torch.sum(fixed * padded[place], 1, out=cost[:, n])
        ctx.save_for_backward(fixed, padded)
        ctx.radius = radius
        return cost

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        fixed, padded = ctx.saved_tensors
        of_fixed, of_padded = torch.zeros_like(fixed), torch.zeros_like(padded)
        cost = gradients[0].float()
        for n, place in enumerate(_windows(fixed.shape[2:], ctx.radius)):
            one = cost[:, n : n + 1]
            of_fixed.addcmul_(one, padded[place])
            of_padded[place].addcmul_(one, fixed)
        i, j, k = (slice(ctx.radius, ctx.radius + n) for n in fixed.shape[2:])
        of_moving = of_padded[..., i, j, k]
        return of_fixed.to(ctx.dtype), of_moving.to(ctx.dtype), None


class StackedFeatures(nn.Module):
    """In place of a correlation: both feature maps beside each other, projected voxel by voxel.

    The ablation "no correlation" of Sivan 2022, table 3.3.
    """

    def __init__(self, features: int, projected: int) -> None:
        super().__init__()
        self.projection = nn.Conv3d(2 * features, projected, 1)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """(b, c, i, j, k) twice to (b, o, i, j, k)."""
        stacked: Tensor = self.projection(torch.cat([fixed, moving], dim=1))
        return stacked


class LocalCorrelation(nn.Module):
    """`local_correlation` with its own projection weights.

    Parameters
    ----------
    projected
        Output channels o.
    radius
        Search radius in voxels.
    """

    def __init__(self, projected: int, radius: int) -> None:
        super().__init__()
        n = 2 * radius + 1
        self.radius = radius
        # Neighbouring offsets correlate alike, so a plane of weights acts through its sum.
        self.weight = nn.Parameter(torch.randn(projected, 1, n, n, n) / math.sqrt(n**3))
        self.bias = nn.Parameter(torch.zeros(projected))
        # The first channels start as the first moments of the correlation, each way along each
        # axis: which way the match lies. From random weights alone that takes hundreds of steps
        # to find.
        axis = torch.linspace(-1, 1, n)
        for channel, (dim, sign) in enumerate(itertools.product(range(3), (1, -1))):
            if channel < projected:
                shape = [n if d == dim else 1 for d in range(3)]
                moment = sign * axis.view(shape).expand(n, n, n)
                self.weight.data[channel, 0] = _MOMENT_GAIN * moment / moment.abs().sum()

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """(b, c, i, j, k) twice to (b, o, i, j, k)."""
        return local_correlation(fixed, moving, self.weight, self.bias, radius=self.radius)
