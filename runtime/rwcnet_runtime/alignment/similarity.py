"""How alike two coarse images are under a linear transform, and how far they cover each other."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.alignment.coarse import Coarse
from rwcnet_runtime.metrics import mutual_information

_OUTSIDE = -1.0  # no intensity is below 0


def similarity(fixed: Coarse, moving: Coarse, transform: sitk.Transform) -> float:
    """Mutual information in nats on what the optimiser did not see, the mean of both directions.

    Points that leave the other image tell nothing: the information of those inside is multiplied
    by their share. A shrinking overlap then cannot look better than a full one, and the bias of a
    histogram, which goes with one over the points in it, is the same for any overlap.

    Parameters
    ----------
    fixed, moving : Coarse
        On any grids.
    transform : sitk.Transform
        Fixed to moving points, LPS mm; linear.
    """
    there = _information(fixed, moving, transform)
    back = _information(moving, fixed, transform.GetInverse())
    return float(there + back) / 2


def overlap(fixed: Coarse, moving: Coarse, transform: sitk.Transform) -> float:
    """Share of the smaller box around a foreground that lies in the other one, 0..1."""
    pulled = sitk.Resample(moving.box, fixed.image, transform, sitk.sitkNearestNeighbor)
    ours, theirs = _array(fixed.box) > 0, _array(moving.box) > 0
    both = np.count_nonzero(ours & (_array(pulled) > 0))
    # In voxels of `fixed`, whose size may be another.
    size = (moving.image.GetSpacing()[0] / fixed.image.GetSpacing()[0]) ** 3
    smaller = min(np.count_nonzero(ours), size * np.count_nonzero(theirs))
    return min(1.0, float(both / smaller))


def _information(image: Coarse, other: Coarse, transform: sitk.Transform) -> float:
    pulled = _array(sitk.Resample(other.image, image.image, transform, sitk.sitkLinear, _OUTSIDE))
    where = _array(image.held_out) > 0
    inside = where & (pulled > _OUTSIDE / 2)
    count = np.count_nonzero(inside)
    if count == 0:
        return 0.0
    share = count / np.count_nonzero(where)
    return float(share) * mutual_information(_array(image.image)[inside], pulled[inside])


def _array(image: sitk.Image) -> NDArray[np.float32]:
    # A copy: a view does not keep the memory of its image.
    array: NDArray[np.float32] = sitk.GetArrayFromImage(image)
    return array
