"""ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort

from rwcnet_runtime.backends.cuda import CudaBackend, DeviceArray
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.errors import BackendError, BundleError

_PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeCuda(CudaBackend):
    """ONNX Runtime's CUDA kernels."""

    name = "onnxruntime-cuda"
    programs = ("onnxruntime-gpu",)
    extra = "cuda"
    arithmetic: ClassVar = {
        "fp32": "float32, without TF32",
        "fp16": "float16, the flow path in float32",
    }

    how_to_install = (
        "the ONNX Runtime here computes on the CPU alone: see the README on how to install the "
        "one for GPUs"
    )

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        # Of CUDA and cuDNN as pip installs them; those of the system are found without.
        ort.preload_dlls()

    @classmethod
    def installed(cls) -> bool:
        """Return whether ONNX Runtime is the build for GPUs."""
        return _PROVIDER in ort.get_available_providers()

    def open(self, bundle: Bundle, name: str, engine: str) -> CudaSession:
        """Open a graph, see `Backend.open`."""
        return CudaSession(self, bundle, name)


class CudaSession:
    """One ONNX graph on the GPU, in the order of the backend's stream."""

    def __init__(self, backend: OnnxRuntimeCuda, bundle: Bundle, name: str) -> None:
        path = bundle.graph_path(name)
        self._name = name
        options = ort.SessionOptions()
        options.intra_op_num_threads = backend.threads
        options.log_severity_level = 3
        provider = {
            "device_id": "0",
            "user_compute_stream": str(backend.stream),
            "use_tf32": "0",
            # Trying all algorithms of each convolution takes minutes for every new size.
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        try:
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=[(_PROVIDER, provider), "CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {str(error).splitlines()[0]}"
            ) from error
        if self._session.get_providers()[0] != _PROVIDER:
            # It goes on without the GPU when CUDA's or cuDNN's libraries are not found.
            raise BackendError(
                "ONNX Runtime does not find what it needs on the GPU (CUDA 13, cuDNN 9): install "
                "these, or choose --backend onnxruntime"
            )

    def rest(self) -> None:
        """Do nothing: what is held would have to be held again."""

    def run(self, **inputs: DeviceArray) -> list[DeviceArray]:
        """Run the graph, see `Graph.run`."""
        binding = self._session.io_binding()
        try:
            for name, buffer in inputs.items():
                binding.bind_input(name, "cuda", 0, np.float32, buffer.shape, buffer.pointer)
            for output in self._session.get_outputs():
                binding.bind_output(output.name, "cuda", 0)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            sizes = {name: buffer.shape for name, buffer in inputs.items()}
            raise BackendError(
                f"ONNX Runtime failed on {sizes} of {self._name} ({str(error).splitlines()[0]}): "
                "if memory of the GPU ran out, use a smaller image or --backend onnxruntime"
            ) from error
        return [
            DeviceArray(value.data_ptr(), value.shape(), owner=value)
            for value in binding.get_outputs()
        ]
