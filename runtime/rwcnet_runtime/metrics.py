"""How alike two images, or two flows, are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import SLAB_VOXELS

_BINS = 32


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
