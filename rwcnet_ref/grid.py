"""Sampling on voxel grids: warp, compose, resize. The only place that knows [-1, 1].

Every array is (b, c, i, j, k); a flow has three channels, channel c displacing along array axis c
in voxels of its own grid, and pulls back: ``warped(x) = image(x + flow(x))``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SQUARINGS = 6


def identity(flow: Tensor) -> Tensor:
    """Return the voxel indices of a flow's grid, shape (1, 3, i, j, k), in its dtype and device."""
    axes = [torch.arange(n, dtype=flow.dtype, device=flow.device) for n in flow.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sample(image: Tensor, points: Tensor) -> Tensor:
    """Sample an image at points, trilinearly, with zeros outside the image.

    Parameters
    ----------
    image
        (b, c, i, j, k), floating.
    points
        (b, 3, x, y, z), voxel indices of the image, of any grid. Taken in float32 whatever the
        image is: in half precision a coordinate near 200 is only good to a tenth of a voxel.

    Returns
    -------
    Tensor
        (b, c, x, y, z), dtype of the image.
    """
    # grid_sample wants the last axis first, and -1..1 between the centres of the end voxels.
    last = torch.tensor(image.shape[2:], device=points.device).view(1, 3, 1, 1, 1) - 1
    scaled = (2 * points.float() / last.clamp(min=1) - 1).flip(1).permute(0, 2, 3, 4, 1)
    sampled = F.grid_sample(image.float(), scaled, padding_mode="zeros", align_corners=True)
    return sampled.to(image.dtype)


class Warp(nn.Module):
    """Sample an image where a flow points, trilinearly, with zeros outside the image.

    A module without parameters, so that an export can put its own operator in its place.
    """

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        """Warp.

        Parameters
        ----------
        image
            (b, c, i, j, k), floating.
        flow
            (b, 3, i, j, k) in voxels.

        Returns
        -------
        Tensor
            (b, c, i, j, k), dtype of the image.
        """
        if image.shape[2:] != flow.shape[2:] or flow.shape[1] != 3:
            raise ValueError(
                f"image {tuple(image.shape)} and flow {tuple(flow.shape)} differ in grid"
            )
        flow = flow.float()
        return sample(image, identity(flow) + flow)


def clamp_to_grid(flow: Tensor) -> Tensor:
    """Shorten a flow so that it never points outside its grid: border values instead of zeros."""
    here = identity(flow)
    last = torch.tensor(flow.shape[2:], device=flow.device).view(1, 3, 1, 1, 1) - 1
    return torch.minimum((here + flow).clamp(min=0), last.to(flow.dtype)) - here


def compose(warp: nn.Module, step: Tensor, below: Tensor) -> Tensor:
    """Compose a step with the flow below it: ``u(x) = step(x) + below(x + step(x))``.

    The step is found between the fixed image and the moving image already warped by `below`.
    Outside the image `below` keeps its border value.
    """
    moved: Tensor = warp(below, clamp_to_grid(step))
    return step + moved


def exponential(warp: nn.Module, velocity: Tensor) -> Tensor:
    """Integrate a stationary velocity (b, 3, i, j, k) in voxels by scaling and squaring.

    Arsigny et al. 2006; 2^6 steps, border values outside the grid.
    """
    flow: Tensor = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        flow = compose(warp, flow, flow)
    return flow


def downsample(image: Tensor, factor: int) -> Tensor:
    """Average blocks of factor^3 voxels; each axis must be a multiple of the factor."""
    return F.avg_pool3d(image, factor) if factor > 1 else image


def upsample(values: Tensor) -> Tensor:
    """Double a grid with half-pixel centres (x_hi = 2 x_lo + 1/2), borders repeated.

    Flows must be doubled in value too, since their unit is the voxel.
    """
    return F.interpolate(values, scale_factor=2.0, mode="trilinear", align_corners=False)
