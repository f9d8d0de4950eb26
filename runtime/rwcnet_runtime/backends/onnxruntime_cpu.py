"""ONNX Runtime on the CPU: what a plain installation has."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort

from rwcnet_runtime.backends.interface import Array, Backend
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.devices import thread_count
from rwcnet_runtime.errors import BackendError, BundleError
from rwcnet_runtime.memory import give_back


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime's CPU kernels."""

    name = "onnxruntime"
    programs = ("onnxruntime",)
    bytes_per_voxel = 300
    arithmetic: ClassVar = {
        "fp32": "float32",
        "fp16": "weights of float16; float32 where this CPU has no kernel of ONNX Runtime for "
        "float16, so not faster than fp32",
    }

    @classmethod
    def missing(cls) -> str | None:
        """Return None: the package does not install without it."""
        return None

    def open(self, bundle: Bundle, name: str, engine: str) -> Session:
        """Open a graph, see `Backend.open`."""
        return Session(bundle.graph_path(name), self.threads)


@functools.cache  # once: ONNX Runtime keeps the pool for the whole process
def _share_memory() -> None:
    """Give the sessions of this process one pool of memory; left alone each keeps its own."""
    info = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({}))


def empty_pool(bundle: Bundle) -> None:
    """Give back what the pool holds for the next run, and on Linux what the C library holds."""
    nothing = np.zeros((1, 3, 2, 2, 2), np.float32)  # the pool shrinks after runs only
    Session(bundle.graph_path("compose.onnx"), 1, keep=False).run(step=nothing, below=nothing)
    give_back()


class Session:
    """One ONNX graph, loaded.

    Parameters
    ----------
    path
        ONNX file.
    threads
        How many it computes with; all cores of the process by default.
    keep
        Whether memory stays in the pool after a run, for the next one of any session.

    Raises
    ------
    BundleError
        If ONNX Runtime refuses the file.
    """

    def __init__(self, path: Path, threads: int | None = None, *, keep: bool = True) -> None:
        _share_memory()
        options = ort.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # A plan for a size seen before takes all of a run's memory at once, beside the pool's.
        options.enable_mem_pattern = False
        options.intra_op_num_threads = threads or thread_count()
        options.log_severity_level = 3
        self._how = ort.RunOptions()
        if not keep:
            self._how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
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
            results: list[Array] = self._session.run(None, inputs, self._how)
        except Exception as error:
            sizes = {name: array.shape for name, array in inputs.items()}
            raise BackendError(
                f"ONNX Runtime failed on {sizes} ({str(error).splitlines()[0]}): if memory "
                "ran out, use a smaller image or a larger machine"
            ) from error
        return results

    def rest(self) -> None:
        """Do nothing: what the pool holds serves the next graph."""
