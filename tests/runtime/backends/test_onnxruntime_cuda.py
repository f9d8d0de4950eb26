"""ONNX Runtime on a GPU, with stand-ins: no GPU was there to run this on."""

import ctypes

import numpy as np
import onnxruntime as ort
import pytest

from rwcnet_runtime.backends import onnxruntime_cuda as module
from rwcnet_runtime.backends.choose import open_cascade
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.errors import BackendError


class Session:
    """ONNX Runtime on the CPU, that takes and gives memory of a GPU which is the host's."""

    def __init__(self, path, options, providers):
        (name, self.options), self.fallback = providers
        self.real = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.get_outputs = self.real.get_outputs
        self.get_providers = lambda: [name, self.fallback]

    def io_binding(self):
        return Binding()

    def run_with_iobinding(self, binding):
        inputs = {
            name: np.ctypeslib.as_array(ctypes.cast(at, ctypes.POINTER(ctypes.c_float)), shape)
            for name, (shape, at) in binding.inputs.items()
        }
        binding.found = self.real.run(binding.outputs, inputs)


class Binding:
    def __init__(self):
        self.inputs, self.outputs, self.found = {}, [], []

    def bind_input(self, name, device, number, kind, shape, pointer):
        assert (device, number, kind) == ("cuda", 0, np.float32)
        self.inputs[name] = shape, pointer

    def bind_output(self, name, device, number):
        self.outputs.append(name)

    def get_outputs(self):
        return [ort.OrtValue.ortvalue_from_numpy(array) for array in self.found]


@pytest.fixture
def runtime(gpu, monkeypatch):
    monkeypatch.setattr(module, "ort", Runtime)
    monkeypatch.setattr(gpu, "within", lambda address, size: None)  # what ORT owns, too


class Runtime:
    __version__ = ort.__version__
    SessionOptions = ort.SessionOptions
    InferenceSession = Session
    get_available_providers = staticmethod(lambda: [module._PROVIDER])
    preload_dlls = staticmethod(lambda: None)


def test_the_cascade_is_that_of_the_cpu_and_all_follows_one_stream(runtime):
    cascade, _ = open_cascade(Bundle.open(), "fp32", "onnxruntime-cuda", threads=1)
    images = np.random.default_rng(0).random((2, 1, 1, 32, 40, 24), dtype=np.float32)
    found, _ = cascade.run(*images)
    expected, _ = Cascade(Bundle.open(), "fp32", OnnxRuntimeCpu()).run(*images)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # voxels
    options = cascade.backend.open(Bundle.open(), "compose.onnx", "fp32")._session.options
    assert options["user_compute_stream"] == "7"
    assert options["use_tf32"] == "0"


def test_a_session_that_fell_back_to_the_cpu_is_refused(runtime, monkeypatch):
    monkeypatch.setattr(Runtime, "InferenceSession", lambda *args, **more: CpuOnly())
    with pytest.raises(BackendError, match="does not find what it needs on the GPU"):
        OnnxRuntimeCuda().open(Bundle.open(), "compose.onnx", "fp32")


class CpuOnly:
    def get_providers(self):
        return ["CPUExecutionProvider"]


def test_the_build_for_the_cpu_is_named_with_what_to_do(gpu):
    with pytest.raises(BackendError, match="computes on the CPU alone: see the README"):
        open_cascade(Bundle.open(), "fp32", "onnxruntime-cuda")
