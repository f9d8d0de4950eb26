"""Buffers in the memory of a GPU, for the backends that compute there."""

from __future__ import annotations

import os
import weakref
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any, ClassVar

import numpy as np

from rwcnet_runtime.backends.interface import Array, Backend
from rwcnet_runtime.devices import gpus
from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.patches import Patch

_BYTES = 4  # of a float32


class DeviceArray:
    """(b, c, i, j, k) float32 on a GPU, C-order.

    Attributes
    ----------
    pointer
        Address on the device.
    shape
        Its axes.
    owner
        Kept as long as the array, where the memory belongs to something else.
    """

    def __init__(self, pointer: int, shape: Sequence[int], owner: object = None) -> None:
        self.pointer, self.shape, self.owner = pointer, tuple(shape), owner


class CudaBackend(Backend):
    """Keeps buffers on the first GPU, and does everything in the order of one stream."""

    on_gpu = True
    how_to_install: ClassVar[str]

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        self.device = "cuda:0"
        # As nvidia-smi counts, which says what the first one is.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        self._cuda: Any = import_module("cuda.bindings.runtime")
        self.call("cudaSetDevice", 0)
        (stream,) = self.call("cudaStreamCreate")
        self.stream = int(stream)
        # Memory that was freed is kept for what is asked next, and not mapped anew each time.
        (pool,) = self.call("cudaDeviceGetDefaultMemPool", 0)
        threshold = self._cuda.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        all_of_it = import_module("cuda.bindings.driver").cuuint64_t(2**64 - 1)
        self.call("cudaMemPoolSetAttribute", pool, threshold, all_of_it)

    @classmethod
    def missing(cls) -> str | None:
        """Say what of a GPU, of the program and of CUDA's Python bindings is not there."""
        if not gpus():
            return f"{cls.name} needs an NVIDIA GPU, and nvidia-smi names none that CUDA may use"
        if not cls.installed():
            return cls.how_to_install
        if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
            return f'{cls.name} needs cuda-bindings: pip install "rwcnet[{cls.extra}]"'
        return None

    @classmethod
    @abstractmethod
    def installed(cls) -> bool:
        """Return whether the program is there."""

    def call(self, function: str, *arguments: Any) -> list[Any]:
        """Call a function of CUDA's runtime, by its name.

        Raises
        ------
        BackendError
            If it returns an error.
        """
        results: list[Any]
        error, *results = getattr(self._cuda, function)(*arguments)
        if int(error):
            out_of_memory = error.name == "cudaErrorMemoryAllocation"
            raise BackendError(
                f"CUDA failed in {function} ({error.name}): "
                + ("use a smaller image, " if out_of_memory else "update the GPU's driver, ")
                + "or choose --backend onnxruntime"
            )
        return results

    def empty(self, shape: Sequence[int]) -> DeviceArray:
        """Return memory that is given back, in the order of the stream, when the array goes."""
        (pointer,) = self.call("cudaMallocAsync", _BYTES * prod(shape), self.stream)
        array = DeviceArray(int(pointer), shape)
        # Not at the end of the process: CUDA may be gone by then, and its memory with it.
        weakref.finalize(array, self._cuda.cudaFreeAsync, array.pointer, self.stream).atexit = False
        return array

    def upload(self, array: Array) -> DeviceArray:
        """Copy an array to the device; it may be written over after that."""
        source = np.ascontiguousarray(array, np.float32)
        buffer = self.empty(source.shape)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call(
            "cudaMemcpyAsync", buffer.pointer, source.ctypes.data, source.nbytes, kind, self.stream
        )
        self.synchronize()
        return buffer

    def download(self, buffer: DeviceArray) -> Array:
        """Copy a buffer to the host."""
        array = np.empty(buffer.shape, np.float32)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call(
            "cudaMemcpyAsync", array.ctypes.data, buffer.pointer, array.nbytes, kind, self.stream
        )
        self.synchronize()
        return array

    def cut(self, buffer: DeviceArray, patches: Sequence[Patch]) -> DeviceArray:
        """Return what patches read of (1, c, i, j, k), as a batch."""
        edges = [axis.stop - axis.start for axis in patches[0].read]
        parts = self.empty((len(patches), buffer.shape[1], *edges))
        for n, patch in enumerate(patches):
            everything = tuple(slice(0, edge) for edge in edges)
            self._copy(buffer, 0, patch.read, parts, n, everything)
        return parts

    def paste(self, parts: DeviceArray, patches: Sequence[Patch], whole: DeviceArray) -> None:
        """Put what patches answer for, of a batch, into (1, c, i, j, k)."""
        for n, patch in enumerate(patches):
            self._copy(parts, n, patch.inner, whole, 0, patch.own)

    def synchronize(self) -> None:
        """Wait for the stream."""
        self.call("cudaStreamSynchronize", self.stream)

    def _copy(
        self,
        source: DeviceArray,
        b: int,
        place: Sequence[slice],
        target: DeviceArray,
        to_b: int,
        to_place: Sequence[slice],
    ) -> None:
        """Copy a block of each channel, on the device."""
        i, j, k = (axis.stop - axis.start for axis in place)
        for c in range(source.shape[1]):
            job = self._cuda.cudaMemcpy3DParms()
            job.srcPtr, job.srcPos = self._channel(source, b, c), self._corner(place)
            job.dstPtr, job.dstPos = self._channel(target, to_b, c), self._corner(to_place)
            job.extent = self._cuda.make_cudaExtent(_BYTES * k, j, i)
            job.kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            self.call("cudaMemcpy3DAsync", job, self.stream)

    def _channel(self, array: DeviceArray, b: int, c: int) -> Any:
        """Describe (i, j, k) of one channel: CUDA counts the last axis in bytes."""
        i, j, k = array.shape[2:]
        start = array.pointer + _BYTES * (b * array.shape[1] + c) * i * j * k
        return self._cuda.make_cudaPitchedPtr(start, _BYTES * k, _BYTES * k, j)

    def _corner(self, place: Sequence[slice]) -> Any:
        i, j, k = (axis.start for axis in place)
        return self._cuda.make_cudaPos(_BYTES * k, j, i)
