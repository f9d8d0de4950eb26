"""Measure one displacement against what is known about its case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.cases import Case
from rwcnet_runtime.evaluation.deformation import (
    folded_percent,
    non_diffeomorphic_percent,
    sd_log_jacobian,
)
from rwcnet_runtime.evaluation.landmarks import paired, read_landmarks
from rwcnet_runtime.evaluation.overlap import dice_per_label, labels_of
from rwcnet_runtime.evaluation.surface import hd95_per_label
from rwcnet_runtime.evaluation.target_error import inside, landmark_errors_mm
from rwcnet_runtime.formats import is_same_grid
from rwcnet_runtime.geometry import jacobian_determinant
from rwcnet_runtime.labels import warp_labels
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.volumes import LabelMap, Volume, read_labels

Row = dict[str, Any]
"""What was measured on one case: see `measure`; ``case`` and ``error`` if it failed."""
Labels = Callable[[int], bool]
"""Whether a label is to be measured."""


def any_label(label: int) -> bool:
    """Measure all labels."""
    return True


def measure(
    case: Case,
    fixed: Volume,
    moving: Volume,
    displacement_mm: NDArray[np.float32],
    *,
    labels: Labels = any_label,
) -> Row:
    """Measure one displacement against the truth of its case.

    Parameters
    ----------
    case : Case
        Says where the truth is.
    fixed, moving : Volume
        Its images.
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm, on ``fixed.grid``, initial transform included.
    labels
        Which labels to measure; all that the pair holds by default.

    Returns
    -------
    dict
        ``sd_log_jacobian``, ``folded_percent`` and ``ndv_percent`` of the whole displacement,
        inside the fixed mask if there is one. With labels: ``dice_before``, ``dice_after``,
        ``hd95_before`` and ``hd95_after`` (voxels of the fixed image), means over the labels that
        both scans hold, and ``labels``, the same for each label. With landmarks:
        ``tre_mm_before`` and ``tre_mm_after``, their means, ``landmarks``, how many count,
        ``landmarks_outside``, how many do not because they lie outside one of the images,
        ``landmarks_unmatched``, how many of the fixed ones have no partner or are left out, and
        ``tre_mm``, by landmark. "Before" is with the initial transform alone.

    Raises
    ------
    InputError
        If a file of the truth cannot be used.
    """
    mask = None if case.fixed_mask is None else _on_fixed_grid(case.fixed_mask, fixed).data > 0
    if mask is not None and not mask.any():
        raise InputError(f"{case.fixed_mask} is empty; give a mask with the anatomy inside.")
    determinant = jacobian_determinant(displacement_mm, fixed.grid)
    row: Row = {
        "sd_log_jacobian": sd_log_jacobian(determinant, mask),
        "folded_percent": folded_percent(determinant, mask),
        "ndv_percent": non_diffeomorphic_percent(displacement_mm, fixed.grid, mask),
    }
    del determinant
    initial = read_initial_transform(case.initial_transform) if case.initial_transform else None
    displacements = {
        "before": Mapping(fixed.grid, moving.grid, initial).displacement_mm(),
        "after": displacement_mm,
    }
    if case.fixed_labels and case.moving_labels:
        row |= _measure_labels(case.fixed_labels, case.moving_labels, fixed, displacements, labels)
    if case.fixed_points and case.moving_points:
        row |= _measure_landmarks(case, fixed, moving, displacements)
    return row


def _on_fixed_grid(path: Path, fixed: Volume) -> LabelMap:
    found = read_labels(path)
    if not is_same_grid(found.grid, fixed.grid):
        raise InputError(
            f"{path} does not lie on the grid of {fixed.path}; resample it by nearest neighbour."
        )
    return found


def _measure_labels(
    fixed_path: Path,
    moving_path: Path,
    fixed: Volume,
    displacements: dict[str, NDArray[np.float32]],
    labels: Labels,
) -> Row:
    still, other = _on_fixed_grid(fixed_path, fixed), read_labels(moving_path)
    wanted = [n for n in labels_of(still.data, other.data) if labels(n)]
    shared = sorted(set(wanted) & set(labels_of(still.data)) & set(labels_of(other.data)))
    if not shared:
        raise InputError(
            f"{fixed_path} and {moving_path} share no label to measure; check that they belong "
            "together, and --labels."
        )
    row: Row = {"labels": {label: {} for label in wanted}}
    for when, displacement in displacements.items():
        warped = warp_labels(other, displacement, fixed.grid)
        for measure_of, name in ((dice_per_label, "dice"), (hd95_per_label, "hd95")):
            found = measure_of(still.data, warped, shared)
            row[f"{name}_{when}"] = float(np.mean(list(found.values())))
            for label in wanted:
                row["labels"][label][f"{name}_{when}"] = found.get(label, float("nan"))
    return row


def landmarks_of(
    case: Case, fixed: Volume, moving: Volume
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], list[str], int]:
    """Read and match the landmarks of a case that has them.

    Returns
    -------
    fixed_points, moving_points : ndarray, (n, 3), float64
        RAS+ mm, row by row the same anatomy.
    there : ndarray, (n,), bool
        Which lie inside both images.
    names : list of str
        Of the rows.
    unmatched : int
        Fixed landmarks that have no partner or are left out.

    Raises
    ------
    InputError
        If a file cannot be used, or no landmark lies inside both images.
    """
    assert case.fixed_points is not None
    assert case.moving_points is not None
    still, other = (
        read_landmarks(path, case.points_frame, volume.stored_grid)
        for path, volume in ((case.fixed_points, fixed), (case.moving_points, moving))
    )
    fixed_points, moving_points, names = paired(still, other, case.points_left_out)
    there = inside(fixed_points, fixed.grid) & inside(moving_points, moving.grid)
    if not there.any():
        raise InputError(
            f"No landmark of {case.fixed_points} and {case.moving_points} lies inside both images; "
            "check points_frame."
        )
    return fixed_points, moving_points, there, names, len(still.points) - len(names)


def _measure_landmarks(
    case: Case, fixed: Volume, moving: Volume, displacements: dict[str, NDArray[np.float32]]
) -> Row:
    fixed_points, moving_points, counts, names, unmatched = landmarks_of(case, fixed, moving)
    row: Row = {
        "landmarks": int(counts.sum()),
        "landmarks_outside": int((~counts).sum()),
        "landmarks_unmatched": unmatched,
        "tre_mm": {"landmark": [n for n, count in zip(names, counts, strict=True) if count]},
    }
    for when, displacement in displacements.items():
        errors = landmark_errors_mm(
            displacement, fixed.grid, fixed_points[counts], moving_points[counts]
        )
        row[f"tre_mm_{when}"] = float(errors.mean())
        row["tre_mm"][when] = errors.tolist()
    return row
