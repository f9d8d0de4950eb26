"""Time and memory of `LocalCorrelation3d` in ONNX Runtime, fp32, on the CPU.

Its function bodies for both metrics, and the dot product as it is written with slices elsewhere.

    python runtime/benchmarks/correlation.py -o runtime/benchmarks/results/correlation.json

One step of the published network on 40 x 48 x 56 voxels: 16 channels, radius 3, 8 outputs. Times
and memory of each writing come from processes of their own. Temporaries are what one run raises
the peak of resident memory by over the session and the inputs, with ONNX Runtime's pool off, which
takes more than is used and keeps it. Channels alive are those of the largest array that a node
hands on, as ONNX Runtime's profile of the run has it, counted in maps of the size of the image. On
a busy machine, the smallest CPU time on one core (`taskset -c 0`) says most. Needs the `export`
extra.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
from sessions import open_session
from slice_bodies import slice_bodies

from rwcnet_export.ops import OPSET, add_functions
from rwcnet_export.ops.call import DOMAIN, PLUGIN
from rwcnet_runtime.devices import thread_count
from rwcnet_runtime.evaluation.summary import environment

Size: TypeAlias = tuple[int, int, int]

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
# Each cost, and its part of each output.
SLICED = VOXELS * N**3 * 2 * (CHANNELS + OUTPUTS)
# Our bodies by the name of their metric; beside them the dot product from slices.
SLICES = slice_bodies(N)
WRITINGS = [*OPERATIONS, *SLICES]
# How far the writings may be from each other: outputs are of order one.
TOLERANCE = 1e-4


def model(writing: str) -> onnx.ModelProto:
    """Return a graph of one call, any size and batch."""
    make = onnx.helper.make_tensor_value_info
    maps = ["b", CHANNELS, "i", "j", "k"]
    types: dict[str, list[Any]] = {
        "fixed": maps,
        "moving": maps,
        "weight": [OUTPUTS, 1, N, N, N],
        "bias": [OUTPUTS],
    }
    metric = "dot" if writing in SLICES else writing
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
    if writing in SLICES:
        text = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{SLICES[writing]}'
        whole.functions[0].CopyFrom(onnx.parser.parse_function(text))
    return whole


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _inputs(size: Size) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    random = np.random.default_rng(0)
    arrays = {}
    for name, shape in SHAPES.items():
        where = (*shape[:2], *size) if name in ("fixed", "moving") else shape
        arrays[name] = random.standard_normal(where, dtype=np.float32)
    arrays["weight"] /= np.sqrt(np.float32(CHANNELS * N**3))
    return arrays


def check() -> None:
    """Raise unless all writings of the dot product agree, on a grid about as large as the cube."""
    inputs = _inputs((5, 7, 9))
    (expected,) = open_session(model("dot")).run(None, inputs)
    for writing in SLICES:
        (found,) = open_session(model(writing)).run(None, inputs)
        if not np.abs(found - expected).max() < TOLERANCE:
            raise AssertionError(f"{writing} is not the dot product")


def measure_memory(writing: str, size: Size = SIZE) -> dict[str, float]:
    """Run one writing once; in a fresh process, since the peak of memory never falls."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    # Memory of what is alive, and of nothing else: no pool, no plan that takes all at once.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "run")
        session = onnxruntime.InferenceSession(
            model(writing).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        inputs = _inputs(size)
        before = _peak_mib()
        session.run(None, inputs)
        temporaries = _peak_mib() - before
        events = json.loads(Path(session.end_profiling()).read_bytes())
    shapes = [
        shape
        for event in events
        for output in event.get("args", {}).get("output_type_shape", [])
        for shape in output.values()
    ]
    return {
        "temporaries_mib": temporaries,
        "channels_alive": max(map(math.prod, shapes)) / math.prod(size),
    }


def measure_time(writing: str, repeats: int, size: Size = SIZE) -> dict[str, Any]:
    """Run one writing again and again."""
    session, inputs = open_session(model(writing)), _inputs(size)
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "seconds": {"median": statistics.median(seconds), "min": min(seconds)},
        # Of all threads, those that wait for each other included.
        "cpu_seconds": {"median": statistics.median(cpu_seconds), "min": min(cpu_seconds)},
    }


def floor(writing: str) -> dict[str, float]:
    """Return what no writing goes below at `SIZE`."""
    return {
        # Each input read once and the output written once.
        "mib": 4 * (2 * CHANNELS + OUTPUTS) * VOXELS / 2**20,
        "gflop": OPERATIONS.get(writing, SLICED) / 1e9,
    }


def _alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    """Measure all writings and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    check()
    load = os.getloadavg()[0]
    timed = {writing: _alone(measure_time, writing, options.repeats) for writing in WRITINGS}
    # glibc hands large blocks back at once then, however many it has handed out.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    rows = []
    for writing in WRITINGS:
        memory = _alone(measure_memory, writing)
        rows.append({"writing": writing, **timed[writing], **memory, "floor": floor(writing)})
        print(json.dumps(rows[-1]), flush=True)
    fastest = {row["writing"]: row["cpu_seconds"]["min"] for row in rows}
    report = {
        "case": {"size": SIZE, "channels": CHANNELS, "radius": RADIUS, "outputs": OUTPUTS},
        "repeats": options.repeats,
        "environment": environment()
        | {
            # Runnable processes of others before the start: above 0, the times are too long.
            "load_before": round(load, 1),
        },
        # By the smallest CPU time of each.
        "dot_faster_than_fastest_slices": min(fastest[name] for name in SLICES) / fastest["dot"],
        "results": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
