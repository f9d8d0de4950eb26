"""Time and memory of `LocalCorrelation3d`'s function bodies in ONNX Runtime, fp32, on the CPU.

    python runtime/benchmarks/correlation.py -o runtime/benchmarks/results/correlation.json

One step of the published network on 40 x 48 x 56 voxels: 16 channels, radius 3, 8 outputs. Each
metric runs in a process of its own; its temporaries are what the peak of resident memory rises by
over the session and the inputs. Needs the `export` extra.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from rwcnet_export.ops import OPSET, add_functions
from rwcnet_export.ops.call import DOMAIN, PLUGIN
from rwcnet_runtime.backend import thread_count
from rwcnet_runtime.evaluation.summary import environment

SIZE, CHANNELS, RADIUS, OUTPUTS = (40, 48, 56), 16, 3, 8
N = 2 * RADIUS + 1
SHAPES = {
    "fixed": (1, CHANNELS, *SIZE),
    "moving": (1, CHANNELS, *SIZE),
    "weight": (OUTPUTS, 1, N, N, N),
    "bias": (OUTPUTS,),
}
# Multiply-adds count twice; a difference and its absolute value are an operation each.
VOXELS = int(np.prod(SIZE))
OPERATIONS = {
    # The identity convolves each channel with all weights, and sums over the channels.
    "dot": VOXELS * CHANNELS * OUTPUTS * 2 * (N**3 + 1),
    # Difference, absolute value, and the product with a matrix (outputs, channels) per offset.
    "absolute_difference": VOXELS * CHANNELS * N**3 * (2 + 2 * OUTPUTS),
}


def model(metric: str) -> bytes:
    """Return a graph of one call, any size and batch."""
    make = onnx.helper.make_tensor_value_info
    maps = ["b", "c", "i", "j", "k"]
    types: dict[str, list[Any]] = {
        "fixed": maps,
        "moving": maps,
        "weight": ["o", 1, N, N, N],
        "bias": ["o"],
    }
    inputs = [make(name, onnx.TensorProto.FLOAT, shape) for name, shape in types.items()]
    out = make("out", onnx.TensorProto.FLOAT, ["b", "o", "i", "j", "k"])
    attributes = {"radius": RADIUS, "metric": metric, **PLUGIN}
    node = onnx.helper.make_node(
        "LocalCorrelation3d", list(types), ["out"], domain=DOMAIN, **attributes
    )
    graph = onnx.helper.make_graph([node], metric, inputs, [out])
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    whole = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    add_functions(whole)
    return bytes(whole.SerializeToString())


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(metric: str, repeats: int) -> dict[str, Any]:
    """Run one metric; in a fresh process, since the peak of memory never falls."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model(metric), options, providers=providers)
    random = np.random.default_rng(0)
    inputs = {
        name: random.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()
    }
    before, seconds, cpu_seconds = _peak_mib(), [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "metric": metric,
        "seconds": {"median": statistics.median(seconds), "min": min(seconds)},
        # Of all threads, those that wait for each other included.
        "cpu_seconds": {"median": statistics.median(cpu_seconds), "min": min(cpu_seconds)},
        "temporaries_mib": _peak_mib() - before,
        "floor": {
            # Each input read once and the output written once.
            "mib": 4 * (2 * CHANNELS + OUTPUTS) * VOXELS / 2**20,
            "gflop": OPERATIONS[metric] / 1e9,
        },
    }


def main() -> None:
    """Measure both metrics and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    processes = multiprocessing.get_context("spawn")
    rows = []
    for metric in OPERATIONS:
        with processes.Pool(1) as pool:
            rows.append(pool.apply(measure, (metric, options.repeats)))
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "case": {"size": SIZE, "channels": CHANNELS, "radius": RADIUS, "outputs": OUTPUTS},
        "repeats": options.repeats,
        "environment": environment()
        | {
            # Runnable processes of others before the start: above 0, the times are too long.
            "load_before": round(load, 1),
        },
        "results": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
