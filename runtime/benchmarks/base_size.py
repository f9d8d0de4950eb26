"""Time candidates for the sizes of `base` on one pair, with random weights, before any training.

    python runtime/benchmarks/base_size.py -o runtime/benchmarks/results/base_size.json

Each candidate is exported and its whole cascade run at 160x192x224 in ONNX Runtime, fp32, on the
CPU; the median of the repeats counts. Needs the `export` extra.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from rwcnet_export.bundle import write_bundle
from rwcnet_ref.config import BASE, ModelConfig
from rwcnet_ref.model import Cascade as TorchCascade
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade

SIZE = (160, 192, 224)


# What differs from `base` at 1/4, at 1/2 and in full.
CANDIDATES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}, {}),
    "no patches": ({}, {}, {"patch": None, "halo": 0}),
    "two full steps": ({}, {}, {"steps": 2}),
    "six half steps": ({}, {"steps": 6}, {}),
    "wide half": ({}, {"motion": 24, "hidden": 24}, {}),
}


def main() -> None:
    """Run all candidates and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES)
    )
    options = parser.parse_args()
    fixed, moving = np.random.default_rng(0).random((2, 1, 1, *SIZE), dtype=np.float32)
    rows = []
    for name in options.candidates:
        changes = zip(BASE.stages, CANDIDATES[name], strict=True)
        stages = tuple(dataclasses.replace(stage, **change) for stage, change in changes)
        config = ModelConfig("candidate", stages)
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            write_bundle(
                TorchCascade(config).eval(),
                Path(folder),
                stages=range(3),
                licence="none",
                training_data="none: random weights",
            )
            cascade = Cascade(Bundle.open(Path(folder)))
            runs = [cascade.run(fixed, moving)[1] for _ in range(options.repeats)]
        seconds = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
        total = statistics.median(sum(run.values()) for run in runs)
        rows.append(
            {
                "name": name,
                "stages": [dataclasses.asdict(s) for s in config.stages],
                "seconds": seconds,
                "total_seconds": total,
            }
        )
        print(
            f"{name:26} {total:6.1f} s  " + "  ".join(f"{p} {s:.1f}" for p, s in seconds.items()),
            flush=True,
        )
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "size": SIZE,
        "repeats": options.repeats,
        "environment": {
            "cpu_cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
        },
        "candidates": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
