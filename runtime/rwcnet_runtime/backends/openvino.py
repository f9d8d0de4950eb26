"""OpenVINO on the CPU, faster than ONNX Runtime's own kernels."""

from __future__ import annotations

import functools
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime as ort

from rwcnet_runtime.backends.interface import Array, Backend
from rwcnet_runtime.backends.onnxruntime_cpu import Session
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.errors import BackendError, BundleError
from rwcnet_runtime.memory import give_back
from rwcnet_runtime.operators import outputs_of

_WARP = "rwcnet::Warp3d"


class OpenVino(Backend):
    """OpenVINO's CPU plugin for the stages: the fp32 graphs, which it rounds to bf16 by itself."""

    name = "openvino"
    programs = ("openvino", "onnxruntime")
    bytes_per_voxel = 480
    extra = "openvino"
    arithmetic: ClassVar = {
        "fp32": "float32",
        "bf16": "bfloat16 where OpenVINO takes it, the flow path in float32",
    }

    @classmethod
    def missing(cls) -> str | None:
        """Say how to install it where it is not."""
        if find_spec("openvino") is None:
            return 'OpenVINO is not installed: pip install "rwcnet[openvino]"'
        return None

    @classmethod
    def engines(cls, bundle: Bundle) -> list[str]:
        """Return what this CPU computes in: all is made of the fp32 graphs."""
        return [engine for engine in cls.arithmetic if engine != "bf16" or _has_bf16()]

    @classmethod
    def require(cls, engine: str) -> None:
        """Refuse bf16 also where the CPU has none: OpenVINO would take float32 without a word."""
        super().require(engine)
        if engine == "bf16" and not _has_bf16():
            raise BackendError("this CPU does not compute in bf16: choose --engine fp32")

    def stage(self, bundle: Bundle, index: int, engine: str) -> CompiledGraph:
        """Open the fp32 graph of a stage, whatever it is computed in."""
        self.require(engine)
        return CompiledGraph(bundle.stage_path(index, "fp32"), engine, self.threads)

    def open(self, bundle: Bundle, name: str, engine: str) -> Session:
        """Open a graph between stages, in ONNX Runtime: gathers are faster there."""
        # What leads into a stage leaves OpenVINO the memory; after `compose` ONNX Runtime goes on.
        return Session(bundle.graph_path(name), self.threads, keep=not name.startswith("enter"))


class CompiledGraph:
    """One ONNX graph, compiled by OpenVINO.

    Parameters
    ----------
    path
        ONNX file.
    engine
        "fp32" or "bf16".
    threads
        How many it computes with.

    Raises
    ------
    BundleError
        If OpenVINO refuses the file.
    """

    def __init__(self, path: Path, engine: str, threads: int) -> None:
        import openvino

        self._openvino: Any = openvino
        core = openvino.Core()
        try:
            model = core.read_model(_written_out(path))
            self._outputs = len(model.outputs)
            # What lies between a convolution and an output stays in float32. So warped features
            # become outputs, or the places they are sampled at would be rounded to bf16.
            model.add_outputs(outputs_of(path, _WARP))
            options = {
                # Left to itself it takes bf16 where the CPU has it.
                "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[engine],
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
            }
            self._compiled = core.compile_model(model, "CPU", options)
            self._request = self._compiled.create_infer_request()
        except Exception as error:
            raise BundleError(
                f"OpenVINO {openvino.__version__} cannot load {path}: {_first_line(error)}"
            ) from error

    def run(self, **inputs: Array) -> list[Array]:
        """Run the graph, see `Graph.run`."""
        try:
            # The results are of this call: copies of what the next one writes over.
            found = self._request.infer(inputs, share_inputs=True, share_outputs=False)
        except Exception as error:
            sizes = {name: array.shape for name, array in inputs.items()}
            raise BackendError(
                f"OpenVINO failed on {sizes} ({_first_line(error)}): if memory ran out, use a "
                "smaller image or a larger machine"
            ) from error
        return [found[output] for output in range(self._outputs)]

    def rest(self) -> None:
        """Give back what OpenVINO keeps for the next call: each graph has memory of its own."""
        self._compiled.release_memory()
        give_back()


@functools.cache
def _has_bf16() -> bool:
    """Return whether OpenVINO computes in bf16 on this CPU."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _written_out(path: Path) -> bytes:
    """Return a graph without functions, which OpenVINO does not read; ONNX Runtime inlines them."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        options.optimized_model_filepath = str(plain)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return plain.read_bytes()


def _first_line(error: Exception) -> str:
    """Return what an exception of OpenVINO says, without where in its source it was raised."""
    lines = [line for line in str(error).splitlines() if not line.startswith("Exception from")]
    return next(iter(lines), type(error).__name__)
