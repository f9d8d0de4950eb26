"""What a report says about how well a registration went; `verdict.judge` judges it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.evaluation.deformation import folded_percent, non_diffeomorphic_percent
from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.metrics import correlation, local_correlation, mutual_information


def findings(
    fixed: NDArray[np.float32],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    mapping: Mapping,
    displacement_mm: NDArray[np.float32],
    grid: ImageGrid,
) -> dict[str, Any]:
    """Return what the report says about how well it went, which `verdict.judge` judges.

    Parameters
    ----------
    fixed, before, after
        (i, j, k), normalised, on one grid: the fixed image, and the moving one by the start and by
        what was found. What is not above 0 is background.
    mapping
        What was found, from the grid of these images, on which its flow lies.
    displacement_mm
        (i, j, k, 3), RAS+ mm, on `grid`.
    grid
        Of the displacement.
    """
    determinant = jacobian_determinant(displacement_mm, grid)
    p1, p99 = np.percentile(determinant, (1, 99))
    length = np.sqrt(np.einsum("...c,...c", displacement_mm, displacement_mm))
    report: dict[str, Any] = {
        "similarity": {
            measure.__name__: {"before": measure(fixed, before), "after": measure(fixed, after)}
            for measure in (correlation, mutual_information, local_correlation)
        },
        "overlap": {
            "in_view_percent": 100 * float(mapping.inside()[fixed > 0].mean()),
            "foreground_dice": {
                "before": _dice(fixed > 0, before > 0),
                "after": _dice(fixed > 0, after > 0),
            },
        },
        "displacement_mm": {"mean": float(length.mean()), "max": float(length.max())},
        "jacobian_determinant": {
            "min": float(determinant.min()),
            "p1": float(p1),
            "p99": float(p99),
            "folded_percent": folded_percent(determinant),
        },
    }
    if mapping.flow_vox is not None:
        step = np.linalg.norm(mapping.flow_vox, axis=0)
        report["flow_vox"] = {
            "mean": float(step.mean()),
            "p99": float(np.percentile(step, 99)),
            "max": float(step.max()),
            # In voxels it is the same measure, and the start, which is smooth, is left out.
            "non_diffeomorphic_percent": non_diffeomorphic_percent(
                np.moveaxis(mapping.flow_vox, 0, -1), ImageGrid(fixed.shape, np.eye(4))
            ),
        }
    return report


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    both = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / both if both else 0.0
