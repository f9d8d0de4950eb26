"""Measure a bundle where the displacement is known: the demo's brain and an abdominal CT.

    python runtime/benchmarks/known_displacement.py -o \
        runtime/benchmarks/results/DATE-known-displacement.json

The brain is nilearn's ICBM152 template; the CT is TotalSegmentator's example, read from
``RWCNET_DATA`` (by default ``../shared/data``). Cases whose truth are labels or landmarks are
measured by ``rwcnet-eval`` and ``peers.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from draw_cases import DATA
from numpy.typing import NDArray

from rwcnet_runtime import Bundle, demo, register
from rwcnet_runtime.demo import random_diffeomorphism
from rwcnet_runtime.evaluation.summary import environment
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.volumes import read_volume, write_volume

_AIR_HU = -500.0
_NOISE_HU = 20.0

Contrast = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def invert(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make dark tissue bright and bright tissue dark, as between T1 and T2."""
    return np.float32(1.1) - image


def figures(before: float, after: float, report: dict[str, Any]) -> dict[str, float]:
    """Return what is kept of one registration: mean errors in mm, and from its report."""
    return {
        "error_mm_before": before,
        "error_mm_after": after,
        "reduction_percent": 100 * (1 - after / before),
        "folded_percent": report["jacobian_determinant"]["folded_percent"],
        "seconds": sum(report["seconds"].values()),
    }


def measure(bundle: Path | None, contrast: Contrast) -> dict[str, float]:
    """Run the demo with a change of contrast and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = demo.run(Path(folder), partial(register, bundle=bundle), contrast)
    return figures(outcome.error_before_mm, outcome.error_after_mm, outcome.registration.report)


def abdomen(bundle: Path | None) -> dict[str, float]:
    """Deform a CT by 8 mm on average, scan it anew with other noise, and register the two."""
    moving = read_volume(DATA / "abdomen_ct/example_ct.nii.gz")
    body = moving.data > _AIR_HU
    spacing = np.linalg.norm(moving.grid.affine[:3, :3], axis=0)
    i, j, k = map(float, spacing)
    flow = random_diffeomorphism(moving.grid.shape, body, seed=0, mean_mm=8.0, spacing_mm=(i, j, k))
    mapping = Mapping(moving.grid, moving.grid, flow_vox=flow)
    deformed = mapping.resample(moving.data)
    body = mapping.resample(np.float32(body)) > 0.5
    # Beyond the image there is air.
    deformed = np.where(body, deformed, moving.data.min())
    noise = np.random.default_rng(0).normal(0, _NOISE_HU, deformed.shape)
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / "fixed.nii.gz"
        write_volume(fixed, (deformed + noise).astype(np.float32), moving)
        registration = register(fixed, moving.path, bundle=bundle)
    found = registration.mapping.flow_vox
    assert found is not None
    before, after = (
        float(np.linalg.norm(x * spacing[:, None, None, None], axis=0)[body].mean())
        for x in (flow, found - flow)
    )
    return figures(before, after, registration.report)


def main() -> None:
    """Measure all and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    results = {
        "brain, contrast changed (the demo)": measure(options.bundle, demo.darken),
        "brain, contrast inverted": measure(options.bundle, invert),
        "abdominal CT, new noise": abdomen(options.bundle),
    }
    bundle = Bundle.open(options.bundle)
    measured = {"name": bundle.manifest.name, "sha256": bundle.sha256}
    report = {"bundle": measured, "environment": environment(), "results": results}
    print(json.dumps(results, indent=1))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
