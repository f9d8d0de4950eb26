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


def random_contrast(
    classes: Tensor,
    random: torch.Generator,
    t1: Tensor | None = None,
    known: float = 0.0,
    narrow: float = 0.0,
) -> Tensor:
    """Draw an intensity within 0..1 for each label.

    Parameters
    ----------
    classes
        (n,) int64: labels of one class (left and right) share an intensity. Class 0 is background
        and stays dark in four of five contrasts.
    random
        Source of randomness.
    t1
        Brightness of each class in a T1-weighted scan, NaN where unknown.
    known
        Share of contrasts that are near T1 weighting, a third of them inverted, as T2 weighting
        nearly is.
    narrow
        Share of contrasts in which most tissues are nearly alike and a few are far brighter or
        darker, as soft tissue between air and bone in CT.

    Returns
    -------
    Tensor
        (n,) float32.
    """
    intensity = torch.rand(int(classes.max()) + 1, generator=random, device=random.device)
    if _uniform(random, 0, 1) < 0.8:
        intensity[0] = 0
    if t1 is not None and _uniform(random, 0, 1) < known:
        spread = torch.randn(t1.shape, generator=random, device=random.device)
        near = (t1 + 0.05 * spread).clamp(0, 1)
        if _uniform(random, 0, 1) < 1 / 3:
            near = 1 - near
        intensity = torch.where(t1.isnan(), intensity, near)
    if _uniform(random, 0, 1) < narrow:
        far = torch.rand(intensity.shape, generator=random, device=random.device) < 0.2
        far[0] = True
        middle, width = _uniform(random, 0.3, 0.7), _uniform(random, 0.08, 0.4)
        intensity = torch.where(far, intensity, middle + width * (intensity - 0.5))
    return intensity[classes]


def paint(
    labels: Tensor, contrast: Tensor, random: torch.Generator, factor: int, texture: float
) -> Tensor:
    """Give each label its intensity and average down.

    Parameters
    ----------
    labels
        (i, j, k) of any integer type, indices into `contrast`.
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
    image = contrast[labels.to(torch.int32)][None, None]
    if factor > 1:
        image = F.avg_pool3d(image, factor)
    size = tuple(image.shape[2:])
    noise = smooth_noise((size[0], size[1], size[2]), 1, 2.5, random)
    amplitude = _uniform(random, 0, texture) * _contrast_of(image)
    return image + amplitude * noise * (image > 0.01)


def _contrast_of(image: Tensor) -> float:
    """Return how far apart most of what is not black lies, relative to images of full contrast."""
    seen = _sorted(image)
    if len(seen) < 10:
        return 1.0
    low, high = seen[len(seen) // 10], seen[-len(seen) // 10]
    return min(1.0, max(0.1, float(high - low) / 0.5))


def _sorted(image: Tensor) -> Tensor:
    """Sort the intensities above the lowest of every third voxel along every axis."""
    seen = image[..., ::3, ::3, ::3].flatten()
    found: Tensor = seen[seen > seen.min()].sort().values
    return found


def scan(image: Tensor, random: torch.Generator, strength: float = 1.0) -> Tensor:
    """Add what a scanner adds: blur, bias field, gamma, noise; and what a reader makes of it.

    Half of the images are stretched to 0..1 between percentiles near those that inference takes
    (`rwcnet_runtime.preprocess`), which knows the whole image where this sees a crop.

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
    # What a scanner adds is of the order of what it is there to show.
    contrast = _contrast_of(image)
    bias = smooth_noise(size, 1, max(size) / 2, random)
    bias = strength * contrast * _uniform(random, 0, 0.2) * bias
    image = (image * bias.exp()).clamp(0, 1) ** (2 ** (strength * _uniform(random, -0.5, 0.5)))
    noise = torch.randn(image.shape, generator=random, device=random.device)
    image = (image + strength * contrast * _uniform(random, 0, 0.05) * noise).clamp(0, 1)
    return _stretched(image, random) if _uniform(random, 0, 1) < 0.5 * strength else image


def _stretched(image: Tensor, random: torch.Generator) -> Tensor:
    seen = _sorted(image)
    if len(seen) < 10:
        return image
    low, high = (
        seen[int(share * (len(seen) - 1))]
        for share in (_uniform(random, 0, 0.02), _uniform(random, 0.97, 1))
    )
    return ((image - low) / (high - low).clamp(min=0.05)).clamp(0, 1)
