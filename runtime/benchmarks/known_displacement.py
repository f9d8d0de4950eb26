"""Measure a bundle on the demo, whose displacement is known, in two changes of contrast.

    python runtime/benchmarks/known_displacement.py -o \
        runtime/benchmarks/results/DATE-known-displacement.json

Cases whose truth are labels or landmarks are measured by ``rwcnet-eval`` and ``peers.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime import Bundle, demo, register
from rwcnet_runtime.evaluation.summary import environment

Contrast = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def invert(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make dark tissue bright and bright tissue dark, as between T1 and T2."""
    return np.float32(1.1) - image


def measure(bundle: Path | None, contrast: Contrast) -> dict[str, float]:
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
    """Measure both contrasts and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    results = {
        "contrast changed (the demo)": measure(options.bundle, demo.darken),
        "contrast inverted": measure(options.bundle, invert),
    }
    bundle = Bundle.open(options.bundle)
    measured = {"name": bundle.manifest.name, "sha256": bundle.sha256}
    report = {"bundle": measured, "environment": environment(), "results": results}
    print(json.dumps(results, indent=1))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
