"""Random smooth diffeomorphisms with small affines, as flows in voxels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rwcnet_ref.grid import Warp, exponential, identity

Size = tuple[int, int, int]


def smooth_noise(size: Size, channels: int, spacing: float, random: torch.Generator) -> Tensor:
    """Return noise (1, channels, *size) with control points `spacing` voxels apart.

    Interpolated in two trilinear steps with an average between them, so that its slope has no
    jumps worth speaking of. Unit variance at the control points, before the average.
    """
    coarse = [max(2, math.ceil(n / spacing) + 2) for n in size]
    noise = torch.randn((1, channels, *coarse), generator=random, device=random.device)
    noise = F.interpolate(noise, scale_factor=2.0, mode="trilinear", align_corners=False)
    noise = F.avg_pool3d(noise, 3, stride=1, padding=1, count_include_pad=False)
    fine = [round(n * spacing) for n in coarse]
    noise = F.interpolate(noise, size=fine, mode="trilinear", align_corners=False)
    # Cut at random: no voxel is always between two control points.
    i, j, k = (
        slice(start, start + n)
        for n, start in (
            (n, int(torch.randint(m - n + 1, (), generator=random, device=random.device)))
            for m, n in zip(fine, size, strict=True)
        )
    )
    cut: Tensor = noise[:, :, i, j, k]
    return cut


def random_affine(random: torch.Generator, strength: float) -> Tensor:
    """Return a 3x3 matrix: rotations up to 10 degrees, scales up to 10 %, each times `strength`."""
    draw = torch.rand(6, generator=random, device=random.device) * 2 - 1
    angles = draw[:3] * math.radians(10) * strength
    scale = torch.diag(torch.exp(draw[3:] * 0.1 * strength))
    generator = torch.zeros(3, 3, device=random.device)
    for n, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
        generator[a, b], generator[b, a] = angles[n], -angles[n]
    matrix: Tensor = torch.linalg.matrix_exp(generator) @ scale
    return matrix


def random_flow(
    size: Size, random: torch.Generator, *, amplitude: float, spacing: float, affine: float = 1.0
) -> Tensor:
    """Draw a smooth, invertible flow: ``x -> A (x + exp(v)(x))``.

    Parameters
    ----------
    size
        Grid (i, j, k).
    random
        Source of all randomness; the flow is made on its device.
    amplitude
        Standard deviation of the velocity at its control points, and the largest translation, in
        voxels.
    spacing
        Distance of the coarser control points in voxels; a second octave has half the distance and
        a third of the amplitude. The velocity's slope is about amplitude / spacing, which should
        stay under a half.
    affine
        Strength of rotation and scaling about the centre; 1 is up to 10 degrees and 10 %.

    Returns
    -------
    Tensor
        (1, 3, i, j, k) float32 in voxels.
    """
    # A smooth flow loses nothing on a coarser grid, where integrating it is cheap.
    coarse = max(1, int(spacing // 4))
    grid = tuple(math.ceil(n / coarse) for n in size)
    small = (grid[0], grid[1], grid[2])
    velocity = smooth_noise(small, 3, spacing / coarse, random)
    velocity = velocity + smooth_noise(small, 3, spacing / coarse / 2, random) / 3
    flow = exponential(Warp(), velocity * (amplitude / coarse)) * coarse
    if coarse > 1:
        flow = F.interpolate(flow, size=size, mode="trilinear", align_corners=False)
    shift = (torch.rand(3, generator=random, device=random.device) * 2 - 1) * amplitude * affine
    matrix = random_affine(random, affine)
    here = identity(flow)
    centre = (torch.tensor(size, device=random.device) - 1).view(1, 3, 1, 1, 1) / 2
    moved = here + flow - centre
    turned = torch.einsum("dc,bcijk->bdijk", matrix, moved)
    return turned + centre + shift.view(1, 3, 1, 1, 1) - here
