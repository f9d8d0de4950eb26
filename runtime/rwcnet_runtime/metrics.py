"""How alike two images, or two flows, are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import SLAB_VOXELS

_BINS = 32
_BLOCK = 8
# Variance of intensities within 0..1 below which a block is taken for empty: 1 % of the range.
_NOTHING = 1e-4


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's correlation of two arrays of one shape, -1..1; 0 if one of them is constant."""
    a, b = a.ravel() - a.mean(dtype=np.float64), b.ravel() - b.mean(dtype=np.float64)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def mutual_information(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mutual information of two arrays of one shape in nats, from a 32 x 32 joint histogram.

    Unlike the correlation it also rises when images of different contrast come to match.
    """
    ranges = [(float(x.min()), float(x.max())) for x in (a, b)]
    joint = np.zeros((_BINS, _BINS))
    for first in range(0, a.size, SLAB_VOXELS):  # numpy holds some 50 bytes for each voxel
        x, y = (image.ravel()[first : first + SLAB_VOXELS] for image in (a, b))
        joint += np.histogram2d(x, y, _BINS, ranges)[0]
    joint /= joint.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float(np.sum(joint[there] * np.log(joint[there] / apart[there])))


def local_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Squared correlation within blocks of 8 x 8 x 8 voxels, 0..1, blocks weighted by variance.

    The share of what varies locally in one image that a linear function of the other explains, of
    another one in each block: contrasts may differ from tissue to tissue, and smooth shading and
    the edge of the body, which make the correlation of whole images high, count little. It is the
    local correlation of Cachier et al. (2003, "Iconic feature based nonrigid registration") on
    blocks that do not overlap, which is many times faster.

    Parameters
    ----------
    a, b : ndarray, (i, j, k), float32
        Intensities within 0..1. What is constant in a block of one image only counts as unlike.

    Returns
    -------
    float
        0 if nothing varies in either.
    """
    count = _by_block(np.ones_like(a))

    def mean(values: NDArray[np.float32]) -> NDArray[np.float64]:
        return _by_block(values) / count

    mean_a, mean_b = mean(a), mean(b)
    variance_a = np.maximum(mean(a * a) - mean_a**2, 0)
    variance_b = np.maximum(mean(b * b) - mean_b**2, 0)
    squared = (mean(a * b) - mean_a * mean_b) ** 2
    weight = variance_a + variance_b
    alike = squared / ((variance_a + _NOTHING) * (variance_b + _NOTHING))
    total = float(weight.sum())
    return float((weight * alike).sum()) / total if total > 0 else 0.0


def _by_block(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum over blocks; those at the ends may be smaller."""
    sums: NDArray[np.float64] = values.astype(np.float64)
    for axis, size in enumerate(values.shape):
        sums = np.add.reduceat(sums, np.arange(0, size, _BLOCK), axis=axis)
    return sums


def flow_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float, float]:
    """Mean, 99th percentile and largest distance between two flows at a voxel, in their unit.

    Parameters
    ----------
    a, b
        (..., 3, i, j, k), of one shape.
    """
    length = np.linalg.norm(a - b, axis=-4)
    return (
        float(length.mean(dtype=np.float64)),
        float(np.percentile(length, 99)),
        float(length.max()),
    )
