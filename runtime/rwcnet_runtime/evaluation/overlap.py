"""Dice overlap of label maps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def labels_of(*label_maps: NDArray[np.int32]) -> list[int]:
    """Return the labels that at least one of the maps holds, in order, without 0."""
    found: set[int] = set()
    for label_map in label_maps:
        found.update(np.unique(label_map).tolist())
    return sorted(found - {0})


def dice_per_label(
    fixed: NDArray[np.int32], warped: NDArray[np.int32], labels: Iterable[int] | None = None
) -> dict[int, float]:
    """Dice overlap of each label, ``2 |A and B| / (|A| + |B|)``.

    Parameters
    ----------
    fixed, warped : ndarray, (i, j, k), integer
        Label maps of one shape.
    labels
        Which to measure; by default all but 0 that one of the maps holds.

    Returns
    -------
    dict
        0..1 by label; NaN where neither map holds the label.
    """
    labels = labels_of(fixed, warped) if labels is None else list(labels)
    in_fixed, in_warped, in_both = (
        dict(zip(*(part.tolist() for part in np.unique(found, return_counts=True)), strict=True))
        for found in (fixed, warped, fixed[fixed == warped])
    )
    totals = {label: in_fixed.get(label, 0) + in_warped.get(label, 0) for label in labels}
    return {
        label: 2 * in_both.get(label, 0) / total if total else float("nan")
        for label, total in totals.items()
    }
