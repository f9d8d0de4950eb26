"""Draw the pairs accuracy is measured on, once: the CSV files in ``cases/`` are committed.

    python runtime/benchmarks/draw_cases.py

Paths are relative to the data folder (``RWCNET_DATA``, by default ``../shared/data``); the columns
are those of `rwcnet_runtime.evaluation.Case`. An ``initial_transform`` that a file already names is
kept: ``peers.py`` fills the column. ``abdomen_ct`` has no truth and is no case.
"""

from __future__ import annotations

import csv
import itertools
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.evaluation.cases import COLUMNS
from rwcnet_runtime.geometry import LPS_FROM_RAS
from rwcnet_runtime.volumes import read_labels

DATA = Path(os.environ.get("RWCNET_DATA", "../shared/data"))
CASES = Path(__file__).parent / "cases"
TRANSFORMS = CASES / "transforms"
HIPPOCAMPUS_PAIRS = 50
BRAIN_PAIRS = 10

Row = dict[str, str]


def brain_trt() -> list[Row]:
    """Draw ordered pairs of the six subjects, which are not aligned with each other."""
    folder = "brain_trt"
    subjects = sorted(path.name for path in (DATA / folder).glob("subject_*"))
    pairs = list(itertools.permutations(subjects, 2))
    drawn = np.random.default_rng(0).choice(len(pairs), BRAIN_PAIRS, replace=False)
    return [
        {
            "case": f"brain-{moving[-1]}-to-{fixed[-1]}",
            "fixed": f"{folder}/{fixed}/t1.nii.gz",
            "moving": f"{folder}/{moving}/t1.nii.gz",
            "fixed_labels": f"{folder}/{fixed}/labels.nii.gz",
            "moving_labels": f"{folder}/{moving}/labels.nii.gz",
        }
        for fixed, moving in (pairs[n] for n in sorted(drawn))
    ]


def hippocampus_mr() -> list[Row]:
    """Draw pairs of two people; an image may be in several."""
    folder = "hippocampus_mr"
    names = sorted(path.name for path in (DATA / folder / "images").glob("*.nii.gz"))
    random = np.random.default_rng(0)
    rows = []
    for n in range(HIPPOCAMPUS_PAIRS):
        fixed, moving = (names[i] for i in random.choice(len(names), 2, replace=False))
        rows.append(
            {
                "case": f"hippocampus-{n + 1:02d}",
                "fixed": f"{folder}/images/{fixed}",
                "moving": f"{folder}/images/{moving}",
                "fixed_labels": f"{folder}/labels/{fixed}",
                "moving_labels": f"{folder}/labels/{moving}",
            }
        )
    return rows


def brain_templates() -> list[Row]:
    """Two templates; the fiducials 29 and 30 are defined differently on them."""
    folder = "brain_templates"
    row = {
        "case": "colin27-to-mni",
        "fixed": f"{folder}/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz",
        "moving": f"{folder}/ch2bet.nii.gz",
        "fixed_points": f"{folder}/tpl-MNI152NLin2009cAsym_afids.fcsv",
        "moving_points": f"{folder}/tpl-Colin27_afids.fcsv",
        "points_left_out": "29 30",
    }
    return [row]


def lung_ct() -> list[Row]:
    """Two scans in frames 34 mm apart: they start from the centres of their lung masks."""
    folder, name = "lung_ct", "lung-followup"
    row = {
        "case": name,
        "fixed": f"{folder}/3DCT_lung_baseline.mha",
        "moving": f"{folder}/3DCT_lung_followup.mha",
        "fixed_points": f"{folder}/3DCT_lung_baseline_landmarks.txt",
        "moving_points": f"{folder}/3DCT_lung_groundtruth_point.txt",
        "points_frame": "LPS",
        "fixed_mask": f"{folder}/3DCT_lung_baseline_mask.mha",
        "moving_mask": f"{folder}/3DCT_lung_followup_mask.mha",
        "initial_transform": f"{TRANSFORMS.name}/{name}.tfm",
    }
    fixed, moving = (_centre(DATA / row[mask]) for mask in ("fixed_mask", "moving_mask"))
    offset_lps = (moving - fixed) * LPS_FROM_RAS.diagonal()[:3]
    TRANSFORMS.mkdir(parents=True, exist_ok=True)
    sitk.WriteTransform(
        sitk.TranslationTransform(3, offset_lps.round(3).tolist()), str(TRANSFORMS / f"{name}.tfm")
    )
    return [row]


def liver_4dmri() -> list[Row]:
    """Two breathing states, each once with the landmarks of the liver and once with the others.

    Their points are voxel index times spacing; the headers have origin 0 and no rotation, so that
    this is the LPS frame of ITK.
    """
    folder = "liver_4dmri"
    return [
        {
            "case": f"{place}-state-{state[-1]}",
            "fixed": f"{folder}/exhMaster_unmasked.force_direction.mha",
            "moving": f"{folder}/{state}.force_direction.mha",
            "fixed_points": f"{folder}/exhMasterLM{place}.vtk",
            "moving_points": f"{folder}/{state}LM{place}.vtk",
            "points_frame": "LPS",
        }
        for place, state in itertools.product(("liver", "outside"), ("cyc_1_6", "cyc_1_9"))
    ]


def spine_t1_t2() -> list[Row]:
    """One neck in two contrasts; the T2 is fixed, since the T1 shows more of the cord than it."""
    folder = "spine_t1_t2"
    row = {
        "case": "spine-t1-to-t2",
        "fixed": f"{folder}/t2.nii.gz",
        "moving": f"{folder}/t1w.nii.gz",
        "fixed_labels": f"{folder}/t2_seg-manual.nii.gz",
        "moving_labels": f"{folder}/t1w_seg-manual.nii.gz",
    }
    return [row]


def _centre(mask: Path) -> NDArray[np.float64]:
    """Return the centre of mass of a mask, RAS mm."""
    labels = read_labels(mask)
    centre: NDArray[np.float64] = labels.grid.world_from_voxel(
        np.argwhere(labels.data > 0).mean(axis=0)
    )
    return centre


def _write(path: Path, rows: list[Row]) -> None:
    if path.exists():
        with path.open(newline="") as file:
            known = {row["case"]: row.get("initial_transform", "") for row in csv.DictReader(file)}
        for row in rows:
            row.setdefault("initial_transform", known.get(row["case"]) or "")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Write one CSV a data set."""
    CASES.mkdir(exist_ok=True)
    for draw in (brain_trt, hippocampus_mr, brain_templates, lung_ct, liver_4dmri, spine_t1_t2):
        _write(CASES / f"{draw.__name__}.csv", draw())


if __name__ == "__main__":
    main()
