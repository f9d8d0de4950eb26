"""How much arithmetic a bundle's cascade is, and how fast a machine does such at most."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rwcnet_runtime import Bundle
from rwcnet_runtime.backends.interface import Graph
from rwcnet_runtime.bundle import Manifest
from rwcnet_runtime.engines.profile import stage_profile
from rwcnet_runtime.patches import lay_out

# The convolution whose rate counts as a machine's peak, in rounds of this many.
CHANNELS, EDGE, ROUNDS = 32, 64, 5


def convolutions(path: Path, sizes: dict[str, tuple[int, ...]]) -> float:
    """Return the floating-point operations of all convolutions of a graph, on inputs (b, i, j, k).

    A multiplication and an addition are two; what else there is, is bound by memory. The graph is
    run once in ONNX Runtime, whose profile has the shapes.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = {
            tensor.name: np.zeros((b, tensor.shape[1], *grid), np.float32)
            for tensor in session.get_inputs()
            for b, *grid in [sizes[tensor.name]]
        }
        session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    total = 0.0
    for event in events:
        about = event.get("args", {})
        if about.get("op_name", "").endswith("Conv") and "output_type_shape" in about:
            (output,) = about["output_type_shape"][0].values()
            (kernel,) = about["input_type_shape"][1].values()
            total += 2 * math.prod(output) * math.prod(kernel[1:])
    return total


def cascade_flops(bundle: Bundle, shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the operations of each stage for an image size; there are none between stages."""
    manifest: Manifest = bundle.manifest
    found = {}
    for n, entry in enumerate(manifest.stages):
        grid = tuple(length // entry.resolution for length in shape)
        patches = lay_out(grid, entry.patch, entry.halo, entry.parts)
        sizes = {
            name: (1, *usual[1:]) for name, (_, usual, _) in stage_profile(entry, [shape]).items()
        }
        found[f"stage{n + 1}"] = len(patches) * convolutions(bundle.stage_path(n, "fp32"), sizes)
    return found


def peak(open_graph: Callable[[Path], Graph]) -> float:
    """Return the operations a second of a 3^3 convolution of 32 channels on 64^3 voxels."""
    weight = np.random.default_rng(0).random((CHANNELS, CHANNELS, 3, 3, 3), dtype=np.float32)
    shape = ["b", CHANNELS, "i", "j", "k"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["out"], pads=[1] * 6)],
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "convolution.onnx"
        onnx.save(model, path)
        opened = open_graph(path)
    image = np.random.default_rng(1).random((1, CHANNELS, EDGE, EDGE, EDGE), dtype=np.float32)
    opened.run(image=image)
    seconds = statistics.median(_timed(opened, image) for _ in range(ROUNDS))
    return 2 * CHANNELS * CHANNELS * 27 * EDGE**3 / seconds


def _timed(graph: Graph, image: NDArray[np.float32]) -> float:
    start = time.perf_counter()
    graph.run(image=image)
    return time.perf_counter() - start
