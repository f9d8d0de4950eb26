"""Measure a bundle: the demo, whose displacement is known, in two contrasts, and all cases files.

    python runtime/benchmarks/accuracy.py -o runtime/benchmarks/results/DATE-accuracy.json

Data are read from ``RWCNET_DATA`` (by default ``../shared/data``). What is measured on the cases,
and how, is that of ``rwcnet-eval``.
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
from draw_cases import CASES, DATA
from numpy.typing import NDArray

from rwcnet_runtime import Bundle, demo, register
from rwcnet_runtime.evaluation import evaluate_bundle, read_cases, summarise
from rwcnet_runtime.evaluation.summary import environment, jsonable, markdown

Contrast = Callable[[NDArray[np.float32]], NDArray[np.float32]]


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
    """Measure everything and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {
        "demo": measure_demo(options.bundle, demo.darken),
        "demo_inverted": measure_demo(options.bundle, invert),
    }
    print(results)
    for path in sorted(CASES.glob("*.csv")):
        rows = evaluate_bundle(read_cases(path, DATA), options.bundle)
        results[path.stem] = {"summary": summarise(rows), "cases": rows}
        print(f"\n{path.stem}\n\n{markdown(rows)}")
    if options.output:
        bundle = Bundle.open(options.bundle)
        measured = {"name": bundle.manifest.name, "sha256": bundle.sha256}
        report = {"bundle": measured, "environment": environment(), "results": results}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(jsonable(report), indent=1) + "\n")


if __name__ == "__main__":
    main()
