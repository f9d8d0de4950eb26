"""How much patches change the flow, near their seams and everywhere, and whether it folds there.

    python runtime/benchmarks/seams.py -o runtime/benchmarks/results/DATE-seams.json

The fixed image of a brain pair is cut to 160x192x224 voxels; the network alone runs in the patches
of the bundle, and once with every stage whole. Data are read from ``RWCNET_DATA``. Linux only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from compare import SIZE, cropped
from draw_cases import DATA
from numpy.typing import NDArray

from rwcnet_runtime import Bundle, Registrar, jacobian_determinant
from rwcnet_runtime.bundle import StageEntry
from rwcnet_runtime.evaluation import read_cases
from rwcnet_runtime.evaluation.summary import environment
from rwcnet_runtime.metrics import flow_distance
from rwcnet_runtime.patches import lay_out

NEAR = 2  # voxels on either side of a seam
CASES = Path(__file__).parent / "cases/brain_trt.csv"


def near_seams(entry: StageEntry, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return where a stage's patches meet, on an image grid (i, j, k)."""
    found = np.zeros(shape, bool)
    patches = lay_out(shape, entry.patch, entry.halo, entry.parts)
    for axis in range(3):
        for start in {patch.own[axis].start for patch in patches} - {0}:
            place: list[slice] = [slice(None)] * 3
            place[axis] = slice(start - NEAR, start + NEAR)
            found[tuple(place)] = True
    return found


def main() -> None:
    """Run both and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    flows: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory() as name:
        case = cropped(read_cases(CASES, DATA)[0], SIZE, Path(name))
        for kind in ("patches", "whole"):
            registrar = Registrar(backend="onnxruntime", refine=0, init="header")
            cascade = registrar._cascade
            if kind == "whole":
                cascade.entries = tuple(replace(e, patch=None, parts=1) for e in cascade.entries)
            found = registrar.register(
                case.fixed, case.moving, initial_transform=case.initial_transform
            )
            assert found.mapping.flow_vox is not None
            flows[kind] = found.mapping.flow_vox
            if kind == "patches":
                folded = jacobian_determinant(found.displacement_mm, found.fixed.grid) <= 0
    seams = near_seams(Bundle.open().manifest.stages[-1], SIZE)
    difference = flows["patches"] - flows["whole"]
    places = {"everywhere": np.ones(SIZE, bool), "near seams": seams}
    results: dict[str, dict[str, Any]] = {}
    for place, where in places.items():
        zero = np.zeros_like(difference[:, where][..., None, None])
        mean, p99, largest = flow_distance(difference[:, where][..., None, None], zero)
        results[place] = {
            "mean_vox": mean,
            "p99_vox": p99,
            "max_vox": largest,
            "folded_percent": 100 * float(folded[where].mean()),
        }
    report = {
        "environment": environment(),
        "bundle_sha256": Bundle.open().sha256,
        "case": case.name,
        "size": SIZE,
        "near_vox": NEAR,
        "results": results,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
