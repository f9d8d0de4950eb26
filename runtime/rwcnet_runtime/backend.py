"""ONNX Runtime on the CPU: open a graph, run it on arrays."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from rwcnet_runtime.errors import BackendError, BundleError

Array = npt.NDArray[np.float32]

NAME = "onnxruntime"
DEVICE = "cpu"
# What the CPU kernels compute the graphs of each precision in; those of others they do not take.
ARITHMETIC = {
    "fp32": "float32",
    "fp16": "weights of float16; float32 where this CPU has no kernel of ONNX Runtime for float16",
}


def thread_count() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_arithmetic(engine: str) -> None:
    """Refuse a precision that ONNX Runtime has no kernels for on the CPU.

    Raises
    ------
    BackendError
        If `ARITHMETIC` does not have it.
    """
    if engine not in ARITHMETIC:
        raise BackendError(
            f"ONNX Runtime does not run {engine} graphs on a CPU: choose "
            f"{' or '.join(ARITHMETIC)} with --engine, or run the bundle's {engine} graphs on a GPU"
        )


@functools.cache  # once: ONNX Runtime keeps the pool for the whole process
def _share_memory() -> None:
    """Give the sessions of this process one pool of memory; left alone each keeps its own."""
    info = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({}))


class Session:
    """One ONNX graph, loaded.

    Parameters
    ----------
    path
        ONNX file.

    Raises
    ------
    BundleError
        If ONNX Runtime refuses the file.
    """

    def __init__(self, path: Path) -> None:
        _share_memory()
        options = ort.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # A plan for a size seen before takes all of a run's memory at once, beside the pool's.
        options.enable_mem_pattern = False
        options.intra_op_num_threads = thread_count()
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {str(error).splitlines()[0]}"
            ) from error

    def run(self, **inputs: Array) -> list[Array]:
        """Run the graph.

        Parameters
        ----------
        inputs
            Arrays by input name, (b, c, i, j, k) float32.

        Returns
        -------
        list
            Output arrays in the graph's order.

        Raises
        ------
        BackendError
            If the run fails.
        """
        try:
            results: list[Array] = self._session.run(None, inputs)
        except Exception as error:
            sizes = {name: array.shape for name, array in inputs.items()}
            raise BackendError(
                f"ONNX Runtime failed on {sizes} ({str(error).splitlines()[0]}): if memory "
                "ran out, use a smaller image or a larger machine"
            ) from error
        return results
