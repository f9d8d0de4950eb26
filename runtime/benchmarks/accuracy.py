"""Measure a bundle on the committed cases: Dice of labels, distance of landmarks, folds, time.

    python runtime/benchmarks/accuracy.py -o runtime/benchmarks/results/DATE-accuracy.json

Data are read from ``RWCNET_DATA`` (by default ``../shared/data``).
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from draw_cases import CASES, DATA
from numpy.typing import NDArray

from rwcnet_runtime import Mapping, Registration, demo, read_volume, register

Contrast = Callable[[NDArray[np.float32]], NDArray[np.float32]]

# AFIDs 29 and 30 are defined differently on the two templates.
_LEFT_OUT = {"29", "30"}


def read_points(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read a Slicer ``.fcsv`` in RAS mm (coordinate system 0): label to point."""
    rows = csv.reader(line for line in path.read_text().splitlines() if not line.startswith("#"))
    return {row[11]: np.array(row[1:4], float) for row in rows if row[11] not in _LEFT_OUT}


def interpolate(field: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample (i, j, k, c) trilinearly at voxel points (n, 3) inside the grid."""
    low = np.floor(points).astype(int)
    part = points - low
    total = np.zeros((len(points), field.shape[-1]))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        total += weight[:, None] * field[tuple((low + corner).T)]
    return total


def landmark_distance(registration: Registration, fixed: Path, moving: Path) -> dict[str, float]:
    """Return the mean distance in mm of moving landmarks to fixed ones, before and after."""
    grid = registration.fixed.grid
    still, other = read_points(fixed), read_points(moving)
    names = sorted(still.keys() & other.keys())
    a, b = (np.stack([points[name] for name in names]) for points in (still, other))
    moved = a + interpolate(registration.displacement_mm, grid.voxel_from_world(a))
    before, after = (np.linalg.norm(b - x, axis=1).mean() for x in (a, moved))
    return {"landmarks": len(names), "tre_mm_before": before, "tre_mm_after": after}


def dice(registration: Registration, fixed: Path, moving: Path) -> dict[str, float]:
    """Return the mean Dice over labels on the fixed grid, before and after."""
    still, other = read_volume(fixed), read_volume(moving)
    start = Mapping(still.grid, other.grid)
    scores: dict[str, list[float]] = {"dice_before": [], "dice_after": []}
    for label in np.unique(still.data)[1:]:
        a = still.data == label
        one = (other.data == label).astype(np.float32)
        for name, mapping in zip(scores, (start, registration.mapping), strict=True):
            b = mapping.resample(one) > 0.5
            scores[name].append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def measure(path: Path, bundle: Path | None) -> Iterator[dict[str, Any]]:
    """Register each case of a CSV and yield its figures."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        files = {name: DATA / value for name, value in row.items() if name != "case" and value}
        registration = register(files["fixed"], files["moving"], bundle=bundle)
        figures: dict[str, Any] = {"case": row["case"]}
        if "fixed_points" in files:
            figures |= landmark_distance(
                registration, files["fixed_points"], files["moving_points"]
            )
        if "fixed_labels" in files:
            figures |= dice(registration, files["fixed_labels"], files["moving_labels"])
        report = registration.report
        figures |= {
            "folded_percent": report["jacobian_determinant"]["folded_percent"],
            "seconds": sum(report["seconds"].values()),
        }
        yield figures | {"report": report}


def invert(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make dark tissue bright and bright tissue dark, as between T1 and T2."""
    return np.float32(1.1) - image


def measure_demo(bundle: Path | None, contrast: Contrast) -> dict[str, float]:
    """Run the demo with a change of contrast and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = demo.run(Path(folder), partial(register, bundle=bundle), contrast)
    report = outcome.registration.report
    return {
        "error_mm_before": outcome.error_before_mm,
        "error_mm_after": outcome.error_after_mm,
        "reduction_percent": outcome.reduction_percent,
        "folded_percent": report["jacobian_determinant"]["folded_percent"],
        "seconds": sum(report["seconds"].values()),
    }


def main() -> None:
    """Measure all cases files and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {
        "demo": measure_demo(options.bundle, demo.darken),
        "demo_inverted": measure_demo(options.bundle, invert),
    }
    print(results)
    environment: dict[str, Any] = {"processor": platform.processor() or platform.machine()}
    for path in sorted(CASES.glob("*.csv")):
        cases = list(measure(path, options.bundle))
        for case in cases:
            report = case.pop("report")
            environment |= {name: report[name] for name in ("versions", "bundle", "threads")}
        names = [name for name in cases[0] if name != "case"]
        mean = {name: float(np.mean([case[name] for case in cases])) for name in names}
        results[path.stem] = {"pairs": len(cases), "mean": mean, "cases": cases}
        print(path.stem, len(cases), {name: round(value, 4) for name, value in mean.items()})
    if options.output:
        report = {
            "date": datetime.now(UTC).date().isoformat(),
            "environment": environment,
            "results": results,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
