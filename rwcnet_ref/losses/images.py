"""How unlike two images are.

Every loss takes the fixed and the warped moving image, (b, 1, i, j, k) within 0..1, and a mask of
the same shape within 0..1 that says how much a voxel counts, and is a mean over the batch. What is
divided by has a floor, so that constant images give finite values and gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_NCC_WINDOW = 9
# VoxelMorph adds 1e-5 to products of sums over 9^3 voxels; this is the same for products of means.
_NCC_FLOOR = 1e-5 / _NCC_WINDOW**6
_MI_BINS = 32
_MIND_RADIUS = 1
_MIND_DISTANCE = 2
# How far the local variance may be from its mean over the image, as factors.
_MIND_VARIANCE = (1e-3, 1e3)


def mean_squared_error(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean square of the difference."""
    return _mean((fixed - warped).square(), mask)


def local_ncc(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """One minus the mean squared correlation within windows of 9^3 voxels, 0..1.

    The local cross-correlation of Avants et al. 2008 with the box filter of VoxelMorph
    (Balakrishnan et al. 2019). Windows end at the border of the image.
    """
    products = [fixed, warped, fixed * warped, fixed.square(), warped.square()]
    of_fixed, of_warped, of_both, *squares = _box_mean(torch.cat(products, 1), _NCC_WINDOW).split(
        1, dim=1
    )
    covariance = of_both - of_fixed * of_warped
    # Rounding can leave the variance of a flat window a little below 0.
    variances = [
        (square - mean.square()).clamp(min=0)
        for square, mean in zip(squares, (of_fixed, of_warped), strict=True)
    ]
    squared = covariance.square() / (variances[0] * variances[1] + _NCC_FLOOR)
    return 1 - _mean(squared, mask)


def mutual_information(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Minus the mutual information of the whole images, in nats.

    Parzen windows (Viola & Wells 1997): each intensity counts as a Gaussian over 32 bins in 0..1,
    half a bin wide, so that the histogram has a gradient. What lies beyond is in the last bin.
    """
    batch = fixed.shape[0]
    of_fixed, of_warped = _parzen(fixed), _parzen(warped)
    counts = torch.ones_like(fixed) if mask is None else mask
    counts = counts.reshape(batch, 1, -1)
    joint = (of_fixed * counts) @ of_warped.mT
    joint = joint / counts.sum(2, keepdim=True).clamp(min=1e-6)
    apart = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    tiny = torch.finfo(joint.dtype).tiny
    # Bins that nothing falls into add nothing: the smallest number keeps their logarithms finite.
    information = (joint * ((joint + tiny).log() - (apart + tiny).log())).sum((1, 2))
    return -information.mean()


def mind_ssc_descriptor(image: Tensor) -> Tensor:
    """Describe each voxel by how alike its six neighbours are to each other.

    The self-similarity context of Heinrich et al. 2013 (MICCAI):
    ``exp(-D / V)``, D being the mean squared difference of the patches (3^3) around two of the six
    neighbours two voxels away, and V the mean of all D at the voxel. As in its authors' code, the
    smallest D is subtracted first and V is held within 1e-3 and 1e3 of its mean over the image.
    Beyond the image its border is repeated.

    Parameters
    ----------
    image
        (b, 1, i, j, k).

    Returns
    -------
    Tensor
        (b, 12, i, j, k) within 0..1: a channel for each pair of neighbours that are not opposite.
    """
    d, r = _MIND_DISTANCE, _MIND_RADIUS
    padded = F.pad(image, [2 * d + r] * 6, mode="replicate")
    # Neighbours a and b of one voxel are -b and -a of the voxel at -a - b: of the twelve pairs two
    # each share their differences, which are made once, on a grid that reaches d + r further.
    differences, elsewhere = [], []
    for p, q in itertools.combinations(range(3), 2):
        for sign in (1, -1):
            first, second = [0, 0, 0], [0, 0, 0]
            first[p], second[q] = d, sign * d
            apart = _shifted(padded, first, d) - _shifted(padded, second, d)
            differences.append(apart.square())
            elsewhere.append([-a - b for a, b in zip(first, second, strict=True)])
    patches = _box_sum(torch.cat(differences, 1), 2 * r + 1) / (2 * r + 1) ** 3
    here = _shifted(patches, (0, 0, 0), d)
    there = [_shifted(patches[:, n : n + 1], place, d) for n, place in enumerate(elsewhere)]
    unlike = torch.cat([here, *there], 1)
    variance = unlike.mean(1, keepdim=True)
    # A gradient through these limits would tie every voxel to all others.
    typical = variance.detach().mean((2, 3, 4), keepdim=True)
    low, high = (typical * factor for factor in _MIND_VARIANCE)
    variance = torch.minimum(torch.maximum(variance, low), high) + torch.finfo(image.dtype).eps ** 2
    return ((unlike.amin(1, keepdim=True) - unlike) / variance).exp()


def mind_ssc(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of the descriptors, see `mind_ssc_descriptor`."""
    difference = mind_ssc_descriptor(fixed) - mind_ssc_descriptor(warped)
    return _mean(difference.square().mean(1, keepdim=True), mask)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (b, 1, i, j, k) over what counts in each image, then over the batch; 0 if nothing."""
    if mask is None:
        return values.mean()
    axes = (1, 2, 3, 4)
    return ((values * mask).sum(axes) / mask.sum(axes).clamp(min=1e-6)).mean()


def _box_mean(values: Tensor, window: int) -> Tensor:
    """Mean over cubes of an odd edge about each voxel, of what lies within the image."""

    def padded_mean(padded: Tensor) -> Tensor:
        # A box is separable, and three short passes are far cheaper than one of window^3.
        for kernel in ((window, 1, 1), (1, window, 1), (1, 1, window)):
            padded = F.avg_pool3d(padded, kernel, 1)
        return padded

    # Padded here and not by the pooling, which takes no axis shorter than its kernel.
    values, inside = (
        F.pad(x, [window // 2] * 6) for x in (values, torch.ones_like(values[:1, :1]))
    )
    return padded_mean(values) / padded_mean(inside)


def _parzen(image: Tensor) -> Tensor:
    """Return the share (b, bins, n) of each bin in each of n voxels; they add up to 1."""
    centres = torch.linspace(0, 1, _MI_BINS, dtype=image.dtype, device=image.device)
    width = 0.5 / (_MI_BINS - 1)
    from_centre = image.reshape(image.shape[0], 1, -1) - centres.view(1, -1, 1)
    return (-0.5 * (from_centre / width).square()).softmax(1)


def _shifted(padded: Tensor, offsets: Sequence[int], edge: int) -> Tensor:
    """Cut `edge` voxels off every side of (b, c, i, j, k), after a move by `offsets` within it."""
    for axis, offset in enumerate(offsets, start=2):
        padded = padded.narrow(axis, edge + offset, padded.shape[axis] - 2 * edge)
    return padded


def _box_sum(values: Tensor, window: int) -> Tensor:
    """Sum over cubes of an odd edge, only where they lie within (b, c, i, j, k)."""
    for axis in (2, 3, 4):
        length = values.shape[axis] - window + 1
        parts = [values.narrow(axis, start, length) for start in range(window)]
        values = sum(parts[1:], parts[0])
    return values
