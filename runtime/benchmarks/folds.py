"""What `--diffeomorphic` does: folds, accuracy and time with and without its two parts.

    python runtime/benchmarks/folds.py runtime/benchmarks/cases/*.csv --pairs 5 \
        -o runtime/benchmarks/results/DATE-folds.json

Every case is registered as it is by default and with integrated stages, and from both the folds
that are left are smoothed away. Data are read from ``RWCNET_DATA`` (by default ``../shared/data``).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from draw_cases import DATA

from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.diffeomorphism import least_determinant, without_folds
from rwcnet_runtime.evaluation import Case, read_cases, summarise
from rwcnet_runtime.evaluation.measures import measure
from rwcnet_runtime.evaluation.summary import environment, jsonable
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.metrics import correlation, mutual_information
from rwcnet_runtime.preprocess import Padding, normalise
from rwcnet_runtime.refinement import Refiner
from rwcnet_runtime.volumes import read_volume

Rows = dict[str, list[dict[str, Any]]]


def measure_case(case: Case, cascade: Cascade, refiner: Refiner, multiple: int, rows: Rows) -> None:
    """Register a case in all four ways and add a row to each."""
    still, other = read_volume(case.fixed), read_volume(case.moving)
    initial = case.initial_transform and read_initial_transform(case.initial_transform)
    images = normalise(still.data), normalise(other.data)
    start = Mapping(still.grid, other.grid, initial)
    padding = Padding.to_multiple(still.grid.shape, multiple)
    moving_image = start.resample(images[1])
    fixed, moving = (padding.apply(image)[None, None] for image in (images[0], moving_image))
    weight = padding.apply(np.ones(still.grid.shape, np.float32))[None, None]

    def add(name: str, mapping: Mapping, about: dict[str, Any]) -> None:
        displacement = mapping.displacement_mm()
        warped = mapping.resample(images[1])
        about |= {
            "case": case.name,
            "folded_one_sided": int((least_determinant(displacement, still.grid) <= 0).sum()),
            "voxels": still.data.size,
            "correlation": correlation(images[0], warped),
            "mutual_information": mutual_information(images[0], warped),
        }
        rows.setdefault(name, []).append(about | measure(case, still, other, displacement))

    for name, integrated in (("plain", False), ("integrated", True)):
        begun = time.perf_counter()
        flow, _ = cascade.run(fixed, moving, integrated=integrated)
        seconds = {"cascade_seconds": time.perf_counter() - begun}
        flow, _ = refiner.run(flow, fixed, moving, weight)
        mapping = Mapping(still.grid, other.grid, initial, padding.remove(flow[0]))
        add(name, mapping, seconds)
        begun = time.perf_counter()
        smooth, removal = without_folds(mapping)
        spent = time.perf_counter() - begun
        add(f"{name}, folds removed", smooth, {"removal_seconds": spent} | asdict(removal))


def main() -> None:
    """Measure, and write one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path, nargs="+", help="cases files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--pairs", type=int, help="only the first ones of each cases file")
    parser.add_argument("--threads", type=int, default=1, help="%(default)s")
    options = parser.parse_args()
    bundle, backend = Bundle.open(), OnnxRuntimeCpu(options.threads)
    assert bundle.manifest.refinement is not None
    cascade = Cascade(bundle, "fp32", backend)
    refiner = Refiner(bundle, bundle.manifest.refinement, backend)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment() | {"threads": options.threads},
        "bundle_sha256": bundle.sha256,
        "results": {},
    }
    for path in options.cases:
        rows: Rows = {}
        for case in read_cases(path, DATA)[: options.pairs]:
            print(f"{datetime.now():%H:%M:%S} {path.stem}: {case.name}", file=sys.stderr)
            measure_case(case, cascade, refiner, bundle.manifest.multiple, rows)
        report["results"][path.stem] = {
            name: {"summary": summarise(found), "cases": found} for name, found in rows.items()
        }
    options.output.write_text(json.dumps(jsonable(report, digits=4), allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
