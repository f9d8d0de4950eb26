"""A stand-in for a GPU: CUDA's runtime whose device is the host, and engines that it runs."""

import ctypes
import sys

import pytest

from rwcnet_runtime.backends import cuda as module
from rwcnet_runtime.devices import Gpu

# What a stand-in of TensorRT needs to run a plan: the graph it was built from, in ONNX Runtime.
RUNNING = """
import ctypes
import sys
import numpy
import onnxruntime

class ExecutionContextAllocationStrategy:
    USER_MANAGED = "user managed"

class TensorIOMode:
    INPUT, OUTPUT = "input", "output"

class Context:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.memory = engine, {}, {}, None
    def set_input_shape(self, name, shape):
        low, _, high = self.engine.sizes[name]
        self.shapes[name] = tuple(shape)
        return all(a <= n <= b for a, n, b in zip(low, shape, high))
    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True
    def inputs(self):
        return {name: numpy.ctypeslib.as_array(
            ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float)), shape
        ) for name, shape in self.shapes.items()}
    def get_tensor_shape(self, name):
        # TensorRT computes it from the shapes of the inputs alone.
        zeros = {name: numpy.zeros(shape, "float32") for name, shape in self.shapes.items()}
        return self.engine.session.run([name], zeros)[0].shape
    def update_device_memory_size_for_shapes(self):
        return 1001
    def set_device_memory(self, address, size):
        self.memory = address, size
    def execute_async_v3(self, stream):
        assert self.memory and self.memory[0] % 4 == 0 and self.memory[1] == 1001
        names = [output.name for output in self.engine.session.get_outputs()]
        for name, found in zip(names, self.engine.session.run(names, self.inputs())):
            ctypes.memmove(self.addresses[name], numpy.ascontiguousarray(found).ctypes.data,
                           found.nbytes)
        return True

class Engine(Engine):
    def __init__(self, plan):
        about = json.loads(bytes(plan))
        self.sizes = about["sizes"]
        self.session = onnxruntime.InferenceSession(about["onnx"])
        self.names = [x.name for x in self.session.get_inputs() + self.session.get_outputs()]
        self.num_io_tensors = len(self.names)
    def get_tensor_name(self, n):
        return self.names[n]
    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.sizes else TensorIOMode.OUTPUT
    def create_execution_context(self, strategy):
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)

class Runtime:
    def __init__(self, logger):
        pass
    def deserialize_cuda_engine(self, plan):
        return Engine(plan)
"""


class StandIn:
    """CUDA's runtime with the memory of the host; what it does not do itself is the real one's."""

    def __init__(self, real):
        self.real, self.memory, self.copied = real, {}, 0
        self.fine = (real.cudaError_t.cudaSuccess,)
        self.own = {
            "cudaSetDevice": self.set_device,
            "cudaDeviceGetDefaultMemPool": lambda device: (*self.fine, "pool"),
            "cudaMemPoolSetAttribute": self.keep_memory,
            "cuuint64_t": int,
            "cudaStreamCreate": self.create_stream,
            "cudaStreamSynchronize": self.synchronize,
            "cudaMallocAsync": self.allocate,
            "cudaFreeAsync": self.free,
            "cudaMemcpyAsync": self.copy,
            "cudaMemcpy3DAsync": self.copy_block,
        }

    def __getattr__(self, name):
        return self.own.get(name) or getattr(self.real, name)

    def keep_memory(self, pool, attribute, value):
        name = "cudaMemPoolAttrReleaseThreshold"
        assert (pool, attribute, value) == ("pool", self.real.cudaMemPoolAttr[name], 2**64 - 1)
        return self.fine

    def set_device(self, device):
        return self.fine

    def create_stream(self):
        return (*self.fine, 7)

    def synchronize(self, stream):
        assert stream == 7
        return self.fine

    def allocate(self, size, stream):
        if size > 2**33:
            return self.real.cudaError_t.cudaErrorMemoryAllocation, None
        block = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN everywhere
        self.memory[ctypes.addressof(block)] = block
        return (*self.fine, ctypes.addressof(block))

    def free(self, pointer, stream):
        del self.memory[pointer]
        return self.fine

    def within(self, address, size):
        assert any(
            start <= address and address + size <= start + len(block)
            for start, block in self.memory.items()
        )

    def copy(self, target, source, size, kind, stream):
        down = kind == self.real.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.within(source if down else target, size)
        ctypes.memmove(target, source, size)
        self.copied += 1
        return self.fine

    def copy_block(self, job, stream):
        assert job.kind == self.real.cudaMemcpyKind.cudaMemcpyDeviceToDevice

        def at(pointer, corner, y, z):
            row = corner.y + y + (corner.z + z) * pointer.ysize
            return int(pointer.ptr) + row * pointer.pitch + corner.x

        for z in range(job.extent.depth):
            for y in range(job.extent.height):
                source, target = at(job.srcPtr, job.srcPos, y, z), at(job.dstPtr, job.dstPos, y, z)
                self.within(source, job.extent.width)
                self.within(target, job.extent.width)
                ctypes.memmove(target, source, job.extent.width)
        return self.fine


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is none; gives the stand-in for CUDA."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    stand_in = StandIn(real)
    monkeypatch.setattr(module, "import_module", lambda name: stand_in)
    for place in ("backends.cuda", "backends.choose", "backends.tensorrt", "engines.stages"):
        monkeypatch.setattr(
            f"rwcnet_runtime.{place}.gpus", lambda: [Gpu("NVIDIA L4", "8.9", "580.1")]
        )
    return stand_in


@pytest.fixture
def forget(monkeypatch):
    """Let this process import a stand-in of TensorRT, and forget it afterwards."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def running(gpu, install, forget):
    """TensorRT, whose engines ONNX Runtime runs."""
    return install("tensorrt", RUNNING)
