"""Whether TensorRT-RTX parses a stage and builds an engine of it: on the CPU, in a child process.

A build can abort the whole process, hence the child: this file run as a script, so that it needs
neither torch nor this package. What builds here was parsed and compiled, not run.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

MODULE = "tensorrt_rtx"
MISSING = (
    "optional check not made, as TensorRT-RTX is not installed: whether it builds engines of these "
    "graphs; to make it, pip install tensorrt-rtx and export again"
)

# Batch and grid (b, i, j, k): the smallest, the usual and the largest an engine is built for.
Profile: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[int]]


def installed() -> bool:
    """Return whether there is a TensorRT-RTX to build with."""
    return importlib.util.find_spec(MODULE) is not None


def try_build(path: Path, profile: Profile, *, stride: int = 1, limit_s: float = 600) -> str:
    """Parse and build one ONNX file in a child process.

    Parameters
    ----------
    path
        A graph whose inputs are (b, c, i, j, k) with dynamic b, i, j, k.
    profile
        Sizes the engine is to accept.
    stride
        Voxels of the images between two points of the hidden state.
    limit_s
        The child is killed after this many seconds.

    Returns
    -------
    str
        One line: version, seconds and size of the engine, or what went wrong.
    """
    if not installed():
        return MISSING
    # -P: or the modules beside this file could hide others of the same name.
    command = [sys.executable, "-P", __file__, str(path), json.dumps(profile), str(stride)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"no engine after {limit_s:g} s, given up"
    if child.returncode < 0:
        return f"the build crashed with {signal.Signals(-child.returncode).name}"
    if child.returncode:
        return f"the build failed: {(child.stderr.strip().splitlines() or ['no word'])[-1]}"
    return child.stdout.strip()


def _build(path: str, profile: Profile, stride: int) -> str:
    """Build in this process; return what `try_build` does."""
    import time

    import tensorrt_rtx as trt

    class Errors(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.found.append(message)

    program = f"TensorRT-RTX {trt.__version__}"
    errors = Errors()
    builder = trt.Builder(errors)
    # Typed by the graph: what TensorRT 11 always does, asked for by name of the older ones.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, errors)
    if not parser.parse_from_file(path):
        return f"{program} cannot parse it: {parser.get_error(0).desc()}"
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    for n in range(network.num_inputs):
        tensor = network.get_input(n)
        channels, step = tensor.shape[1], stride if tensor.name == "hidden" else 1
        sizes = ((b, channels, *(n // step for n in grid)) for b, *grid in profile)
        shapes.set_shape(tensor.name, *sizes)
    config.add_optimization_profile(shapes)
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if engine is None:
        return f"{program} cannot build it: {(errors.found or ['no error given'])[0]}"
    size = engine.nbytes / 2**20
    return f"{program} built an engine in {seconds:.1f} s, {size:.1f} MiB (not run)"


if __name__ == "__main__":
    verdict = _build(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(verdict.replace("\n", " ") + "\n")
