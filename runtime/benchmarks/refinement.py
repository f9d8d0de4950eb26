"""What the refinement gains with which features, or what one of its steps takes beside a peer's.

    python runtime/benchmarks/refinement.py runtime/benchmarks/cases/*.csv \
        -o runtime/benchmarks/results/DATE-refinement.json
    python runtime/benchmarks/refinement.py -o runtime/benchmarks/results/DATE-adam-step.json

Every case is registered once without refinement, and that flow is refined with each kind of
features and the bundle's own settings. Without cases, a step is timed at 160 x 192 x 224 beside a
step of ConvexAdam's Adam part, on the same grid with as many features (12), with one thread and
with all cores, which should have nothing else to do. Data are read from
``RWCNET_DATA`` (by default ``../shared/data``); ConvexAdam's environment is made below ``--work``.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from draw_cases import DATA
from numpy.typing import NDArray
from peer_runs.environments import Launcher

from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu, Session
from rwcnet_runtime.bundle import REFINEMENT_FEATURES, Bundle
from rwcnet_runtime.evaluation import Case, read_cases, summarise
from rwcnet_runtime.evaluation.measures import measure
from rwcnet_runtime.evaluation.summary import environment, jsonable
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.preprocess import Padding, normalise
from rwcnet_runtime.refinement import Refiner
from rwcnet_runtime.registrar import Registrar

SIZE = (160, 192, 224)
MIND_CHANNELS = 12
REPEATS = 7

Rows = dict[str, list[dict[str, Any]]]


def say(text: str) -> None:
    """Tell how far the run is."""
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def measure_case(
    case: Case, registrar: Registrar, refiners: dict[str, Refiner], rows: Rows
) -> None:
    """Register a case, refine what was found in every way, and add a row to each."""
    found = registrar.register(case.fixed, case.moving, initial_transform=case.initial_transform)
    still, other, plain = found.fixed, found.moving, found.mapping
    assert plain.flow_vox is not None
    start = Mapping(still.grid, other.grid, plain.initial)
    padding = Padding.to_multiple(still.grid.shape, registrar.bundle.manifest.multiple)

    def padded(array: NDArray[np.float32]) -> NDArray[np.float32]:
        whole: NDArray[np.float32] = padding.apply(array)[None]
        return whole

    fixed = padded(normalise(still.data)[None])
    moving = padded(start.resample(normalise(other.data))[None])
    weight = padded(np.ones((1, *still.grid.shape), np.float32))
    row = measure(case, still, other, found.displacement_mm)
    rows["none"].append({"case": case.name} | row)
    for features, refiner in refiners.items():
        begun = time.perf_counter()
        flow, losses = refiner.run(padded(plain.flow_vox), fixed, moving, weight)
        spent = time.perf_counter() - begun
        mapping = Mapping(still.grid, other.grid, plain.initial, padding.remove(flow[0]))
        row = measure(case, still, other, mapping.displacement_mm())
        about = {"case": case.name, "seconds": round(spent, 2), "steps": len(losses)}
        rows[features].append(about | {"loss": [losses[0], losses[-1]]} | row)


def time_step(bundle: Bundle, threads: int) -> dict[str, Any]:
    """Return what one step takes, the least of some, and the memory of this process by then."""
    random = np.random.default_rng(0)
    half = [edge // 2 for edge in SIZE]
    flow = random.normal(size=(1, 3, *half)).astype(np.float32)
    features = [random.random((1, *half, MIND_CHANNELS), dtype=np.float32) for _ in range(2)]
    one = np.ones(1, np.float32)
    step = Session(bundle.graph_path("refine.onnx"), threads)
    spent = []
    for _ in range(REPEATS):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        step.run(
            change=flow,
            mean=np.zeros_like(flow),
            square=np.zeros_like(flow),
            step=one,
            start=np.zeros_like(flow),
            fixed=features[0],
            moving=features[1],
            weight=np.ones((1, 1, *half), np.float32),
            regularisation=one,
            rate=one,
        )
        spent.append((time.perf_counter() - begun, time.process_time() - cpu_begun))
    clock, cpu = (min(times) for times in zip(*spent, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {
        "seconds": round(clock, 4),
        "cpu_seconds": round(cpu, 4),
        "peak_memory_mb": round(peak, 1),
    }


def main() -> None:
    """Measure, and write one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path, nargs="*", help="cases files; none: time a step")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="%(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of cases; %(default)s")
    parser.add_argument("--pairs", type=int, help="only the first ones of each cases file")
    options = parser.parse_args()
    registrar = Registrar(backend="onnxruntime", threads=options.threads, refine=0, init="header")
    settings = registrar.bundle.manifest.refinement
    assert settings is not None
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment() | {"threads": options.threads},
        "bundle_sha256": registrar.bundle.sha256,
        "settings": asdict(settings),
        "results": {},
    }
    if not options.cases:
        report["size"], report["features"] = SIZE, MIND_CHANNELS
        report["steps"] = {
            threads: {
                "rwcnet": time_step(registrar.bundle, threads),
                "convexadam": Launcher(options.work / "environments", threads).run(
                    "convexadam", "run_adam_steps.py", {"size": SIZE}
                ),
            }
            for threads in sorted({1, len(os.sched_getaffinity(0))})
        }
    backend = OnnxRuntimeCpu(options.threads)
    refiners = {
        features: Refiner(registrar.bundle, replace(settings, features=features), backend)
        for features in REFINEMENT_FEATURES
    }
    for path in options.cases:
        rows: Rows = {name: [] for name in ("none", *refiners)}
        for case in read_cases(path, DATA)[: options.pairs]:
            say(f"{path.stem}: {case.name}")
            measure_case(case, registrar, refiners, rows)
        report["results"][path.stem] = {
            name: {"summary": summarise(found), "cases": found} for name, found in rows.items()
        }
    options.output.write_text(json.dumps(jsonable(report, digits=4), allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
