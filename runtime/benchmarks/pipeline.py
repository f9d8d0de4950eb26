"""Time and memory of the packaged `pipeline.onnx` in ONNX Runtime on the CPU.

    python runtime/benchmarks/pipeline.py -o runtime/benchmarks/results/DATE-pipeline.json
    python runtime/benchmarks/readme.py

Each row is a process of its own that opens the file with one or all threads and runs it twice: the
memory plan of ONNX Runtime comes with the second run on a size. Peaks are of the whole process,
images included. Beside them the intensities alone, and how far the flow is from the cascade of
`rwcnet_runtime`. Needs the `export` extra, to cut the intensities out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from rwcnet_runtime.backends.interface import Array
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.devices import thread_count
from rwcnet_runtime.evaluation.summary import environment
from rwcnet_runtime.preprocess import Padding, normalise

# What the README tells to set, what is set by nobody, and what saves memory elsewhere.
SETTINGS: dict[str, dict[str, bool]] = {
    "no memory plan": {"enable_mem_pattern": False},
    "defaults": {},
    "no memory plan, no pool": {"enable_mem_pattern": False, "enable_cpu_mem_arena": False},
}
RUNS = 2


def save_images(size: tuple[int, ...], folder: Path) -> None:
    """Write a smooth image, and the same of another contrast, moved by up to three voxels."""
    random = np.random.default_rng(0)
    waves = random.uniform(-0.25, 0.25, (16, 3)).astype(np.float32)
    phases = random.uniform(0, 2 * np.pi, 16).astype(np.float32)
    here = np.indices(size, dtype=np.float32)

    def anatomy(points: Array) -> Array:
        total = np.zeros(size, np.float32)
        for wave, phase in zip(waves, phases, strict=True):
            total += np.sin(np.tensordot(wave, points, 1) + phase)
        return total

    np.save(folder / "fixed.npy", 900 + 100 * anatomy(here))
    np.save(folder / "moving.npy", 500 - 60 * anatomy(here + 3 * np.sin(here / 15)))


def save_intensities(path: Path) -> None:
    """Write the part of the pipeline that scales both images, as a graph of its own."""
    import onnx

    model = onnx.load(Bundle.open().graph_path("pipeline.onnx"))
    scaling = [node for node in model.graph.node if node.op_type == "Intensities"]
    scaled = [
        onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        for node in scaling
    ]
    for field, content in ((model.graph.node, scaling), (model.graph.output, scaled)):
        del field[:]
        field.extend(content)
    onnx.save(model, path)


def reference(folder: Path) -> None:
    """Register the images with the runtime and write the flow."""
    bundle = Bundle.open()
    images = [np.load(folder / f"{name}.npy") for name in ("fixed", "moving")]
    padding = Padding.to_multiple(images[0].shape, bundle.manifest.multiple)
    padded = [padding.apply(normalise(image))[None, None] for image in images]
    np.save(folder / "flow.npy", padding.remove(Cascade(bundle).run(*padded)[0]))


def run(graph: Path, folder: Path, settings: dict[str, bool], threads: int) -> dict[str, Any]:
    """Run a graph on the images; in a fresh process, since the peak of memory never falls."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for name, value in settings.items():
        setattr(options, name, value)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    images = {name: np.load(folder / f"{name}.npy")[None, None] for name in ("fixed", "moving")}
    seconds, peak_mib = [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        first, *_ = session.run(None, images)
        seconds.append(time.perf_counter() - start)
        peak_mib.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    row = {"threads": threads, "seconds": seconds, "peak_mib": peak_mib}
    if session.get_outputs()[0].name == "flow":
        row["largest_difference_vox"] = float(np.abs(first - np.load(folder / "flow.npy")).max())
    return row


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    """Measure all and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--size", default="160x192x224")
    options = parser.parse_args()
    size, load = tuple(map(int, options.size.split("x"))), os.getloadavg()[0]
    bundle = Bundle.open()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _alone(save_images, size, folder)
        _alone(save_intensities, folder / "intensities.onnx")
        _alone(reference, folder)
        jobs = {title: (bundle.graph_path("pipeline.onnx"), x) for title, x in SETTINGS.items()}
        jobs["intensities alone"] = folder / "intensities.onnx", SETTINGS["no memory plan"]
        for title, (graph, settings) in jobs.items():
            for threads in sorted({1, thread_count()}):
                row = _alone(run, graph, folder, settings, threads)
                print(title, json.dumps(row), flush=True)
                results[f"{title}, {threads}"] = {"what": title, **row}
    report = {
        "size": size,
        "bundle_sha256": bundle.sha256,
        # Runnable processes of others before the start: well above 0, the times are too long.
        "load_before": round(load, 1),
        "environment": environment(),
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
