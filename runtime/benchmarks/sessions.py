"""How benchmarks load a graph that is no file."""

from __future__ import annotations

import onnx
import onnxruntime

from rwcnet_runtime.devices import thread_count


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Load a graph into ONNX Runtime on the CPU, with all cores and its default settings."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
