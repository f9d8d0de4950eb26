"""From labels to an image of random contrast, and from a clean image to one of a random scanner.

The idea is SynthSeg's and SynthMorph's (Billot et al. 2023, Hoffmann et al. 2022): a network that
has seen every contrast relies on none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rwcnet_ref.deformation import Size, smooth_noise


def _uniform(random: torch.Generator, low: float, high: float) -> float:
    return float(torch.rand((), generator=random, device=random.device)) * (high - low) + low


def random_labels(size: Size, random: torch.Generator, classes: int = 10) -> Tensor:
    """Draw procedural shapes: the strongest of `classes` smooth noises at each voxel.

    Returns
    -------
    Tensor
        Labels (i, j, k) int64 in 0..classes-1.
    """
    spacing = _uniform(random, 3, 12)
    return smooth_noise(size, classes, spacing, random)[0].argmax(0)


def random_contrast(classes: Tensor, random: torch.Generator) -> Tensor:
    """Draw an intensity within 0..1 for each label.

    Parameters
    ----------
    classes
        (n,) int64: labels of one class (left and right) share an intensity. Class 0 is background
        and stays dark in four of five contrasts.
    random
        Source of randomness.

    Returns
    -------
    Tensor
        (n,) float32.
    """
    intensity = torch.rand(int(classes.max()) + 1, generator=random, device=random.device)
    if _uniform(random, 0, 1) < 0.8:
        intensity[0] = 0
    return intensity[classes]


def paint(
    labels: Tensor, contrast: Tensor, random: torch.Generator, factor: int, texture: float
) -> Tensor:
    """Give each label its intensity and average down.

    Parameters
    ----------
    labels
        (i, j, k) int64, indices into `contrast`.
    contrast
        (n,) intensities, see `random_contrast`.
    random
        Source of the texture, on the device of the labels.
    factor
        Blocks of factor^3 voxels are averaged: partial volumes as a coarse image has them.
    texture
        Largest amplitude of a texture added to what is not black.

    Returns
    -------
    Tensor
        (1, 1, i/factor, ...) float32 about 0..1.
    """
    image = F.avg_pool3d(contrast[labels][None, None], factor)
    size = tuple(image.shape[2:])
    noise = smooth_noise((size[0], size[1], size[2]), 1, 2.5, random)
    return image + _uniform(random, 0, texture) * noise * (image > 0.01)


def scan(image: Tensor, random: torch.Generator, strength: float = 1.0) -> Tensor:
    """Add what a scanner adds: blur, bias field, gamma, noise.

    Parameters
    ----------
    image
        (1, 1, i, j, k) within 0..1.
    random
        Source of randomness, on the image's device.
    strength
        0 leaves the image as it is.

    Returns
    -------
    Tensor
        Same shape, float32 within 0..1.
    """
    size = (image.shape[2], image.shape[3], image.shape[4])
    # Torch averages over no window that is longer than the image.
    if _uniform(random, 0, 1) < 0.5 and min(size) >= 3:
        blurred = F.avg_pool3d(image, 3, stride=1, padding=1, count_include_pad=False)
        image = torch.lerp(image, blurred, _uniform(random, 0, 0.7) * strength)
    bias = strength * _uniform(random, 0, 0.2) * smooth_noise(size, 1, max(size) / 2, random)
    image = (image * bias.exp()).clamp(0, 1) ** (2 ** (strength * _uniform(random, -0.5, 0.5)))
    noise = torch.randn(image.shape, generator=random, device=random.device)
    return (image + strength * _uniform(random, 0, 0.05) * noise).clamp(0, 1)
