"""Measure the default alignment: known rigid motions undone, and pairs as their files lie.

    python runtime/benchmarks/alignment.py -o runtime/benchmarks/results/DATE-alignment.json

Ten random rigid motions (up to 25 degrees and 40 mm) move one brain, which is aligned with itself
and with another person's; then every case of ``cases/`` is aligned straight from its files and
measured beside its stored start. Data are read from ``RWCNET_DATA``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from draw_cases import CASES, DATA
from numpy.typing import NDArray

from rwcnet_runtime import Mapping, read_volume
from rwcnet_runtime.alignment import Alignment, align
from rwcnet_runtime.evaluation import Case, read_cases
from rwcnet_runtime.evaluation.measures import landmarks_of
from rwcnet_runtime.evaluation.overlap import dice_per_label, labels_of
from rwcnet_runtime.evaluation.summary import environment
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid
from rwcnet_runtime.labels import warp_labels
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.volumes import Volume, read_labels

MOTIONS, MOST_DEGREES, MOST_MM = 10, 25.0, 40.0
NOISE = 0.05  # of the brightest voxel, so that the moved brain is not the same voxels again
ROOM = 64  # voxels around the moved image
FLIP = LPS_FROM_RAS.diagonal()[:3]
Row = dict[str, Any]


def brain(subject: int) -> Path:
    """Return the folder of a subject."""
    return DATA / f"brain_trt/subject_{subject}"


def random_motion(random: np.random.Generator, centre: NDArray[np.float64]) -> sitk.Transform:
    """Draw a rotation about a point (LPS mm), of any axis, and a shift of any direction."""
    axis, way = (x / np.linalg.norm(x) for x in random.normal(size=(2, 3)))
    motion = sitk.VersorRigid3DTransform()
    motion.SetCenter(centre.tolist())
    motion.SetRotation(axis.tolist(), float(np.radians(random.uniform(0, MOST_DEGREES))))
    motion.SetTranslation((way * random.uniform(0, MOST_MM)).tolist())
    return motion


def moved(image: Volume, motion: sitk.Transform, random: np.random.Generator) -> Volume:
    """Resample an image so that ``motion`` leads from its new places to the old ones."""
    affine = image.grid.affine.copy()
    affine[:3, 3] = image.grid.world_from_voxel([-ROOM] * 3)
    i, j, k = (size + 2 * ROOM for size in image.grid.shape)
    grid = ImageGrid((i, j, k), affine)
    data = Mapping(grid, image.grid, motion).resample(image.data)
    noise = NOISE * data.max() * random.normal(size=grid.shape)
    data = (data + np.where(data > 0, noise, 0)).astype(np.float32)
    return replace(image, data=data, grid=grid, stored_grid=grid)


def distance_mm(
    a: sitk.Transform, b: sitk.Transform, points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far apart two transforms put points, (n, 3) LPS mm; (n,)."""
    ends = (np.array([t.TransformPoint(p) for p in points.tolist()]) for t in (a, b))
    return np.linalg.norm(next(ends) - next(ends), axis=1)


def recovered() -> Iterator[Row]:
    """Undo known motions of subject 1, aligned with itself and with subject 2."""
    still, other = (read_volume(brain(n) / "t1.nii.gz") for n in (1, 2))
    between = align(other, still).transform
    assert between is not None
    random = np.random.default_rng(0)
    inside = np.argwhere(still.data > 0)
    points = still.grid.world_from_voxel(random.choice(inside, 2000)) * FLIP
    inside = np.argwhere(other.data > 0)
    points_of_other = other.grid.world_from_voxel(random.choice(inside, 2000)) * FLIP
    for _ in range(MOTIONS):
        motion = random_motion(random, points.mean(axis=0))
        moving = moved(still, motion, random)
        back = motion.GetInverse()
        begun = time.perf_counter()
        own = align(still, moving)
        spent = time.perf_counter() - begun
        foreign = align(other, moving)
        identity = sitk.AffineTransform(3)
        before = distance_mm(identity, back, points)
        after = distance_mm(own.transform or identity, back, points)
        # As it was aligned before the motion, and the motion.
        expected = sitk.CompositeTransform([back, between])
        off = distance_mm(foreign.transform or identity, expected, points_of_other)
        yield {
            "mean_mm_before": float(before.mean()),
            "mean_mm": float(after.mean()),
            "max_mm": float(after.max()),
            "other_person_mean_mm": float(off.mean()),
            "methods": [own.method, foreign.method],
            "seconds": spent,
        }


def truth(case: Case, fixed: Volume, moving: Volume, transform: sitk.Transform) -> float:
    """Return mean Dice (nearest voxel, labels of both) or mean TRE in mm."""
    if case.fixed_labels and case.moving_labels:
        still, other = read_labels(case.fixed_labels), read_labels(case.moving_labels)
        displacement = Mapping(fixed.grid, moving.grid, transform).displacement_mm()
        shared = set(labels_of(still.data)) & set(labels_of(other.data))
        found = dice_per_label(still.data, warp_labels(other, displacement, fixed.grid), shared)
        return float(np.mean(list(found.values())))
    from_points, to_points, there, _, _ = landmarks_of(case, fixed, moving)
    ends = [transform.TransformPoint(p) for p in (from_points[there] * FLIP).tolist()]
    return float(np.linalg.norm(ends - to_points[there] * FLIP, axis=1).mean())


def as_they_lie(cases: Path) -> Iterator[Row]:
    """Align the cases of a file without their stored starts."""
    for case in read_cases(cases, DATA):
        fixed, moving = read_volume(case.fixed), read_volume(case.moving)
        begun = time.process_time()
        found: Alignment = align(fixed, moving)
        spent = time.process_time() - begun
        nothing = sitk.AffineTransform(3)
        stored = case.initial_transform
        yield {
            "case": case.name,
            "measure": "dice" if case.fixed_labels else "tre_mm",
            "headers": truth(case, fixed, moving, nothing),
            "stored": truth(
                case, fixed, moving, read_initial_transform(stored) if stored else nothing
            ),
            "ours": truth(case, fixed, moving, found.transform or nothing),
            "method": found.method,
            "reason": found.reason,
            "numbers": found.numbers,
            "cpu_seconds": spent,
        }


def main() -> None:
    """Run all, write one JSON, and print means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    report: Row = {"environment": environment(), "recovered": list(recovered())}
    print("motions:", [round(row["mean_mm"], 2) for row in report["recovered"]], flush=True)
    report["cases"] = {}
    for path in sorted(CASES.glob("*.csv")):
        rows = report["cases"][path.stem] = list(as_they_lie(path))
        means = {key: np.mean([row[key] for row in rows]) for key in ("headers", "stored", "ours")}
        print(path.stem, {key: round(float(mean), 3) for key, mean in means.items()}, flush=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
