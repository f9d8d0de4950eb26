"""Buffers on a GPU, with a stand-in for CUDA: no GPU was there to run this on."""

import gc

import numpy as np
import pytest

from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.tensorrt import TensorRt
from rwcnet_runtime.cascade import run_in_patches
from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.patches import lay_out

RNG = np.random.default_rng(0)


@pytest.fixture
def backend(gpu, install, forget):
    install("tensorrt")
    return TensorRt()


def test_what_goes_up_comes_down_and_memory_is_given_back(backend, gpu):
    before = len(gpu.memory)
    image = RNG.random((2, 3, 5, 4, 6), dtype=np.float32)
    buffer = backend.upload(image[..., ::2])  # not contiguous
    assert buffer.shape == (2, 3, 5, 4, 3)
    np.testing.assert_array_equal(backend.download(buffer), image[..., ::2])
    del buffer
    gc.collect()
    assert len(gpu.memory) == before


def test_patches_are_cut_and_pasted_as_on_the_host(backend):
    image = RNG.random((1, 2, 20, 17, 26), dtype=np.float32)
    patches = lay_out(image.shape[2:], 12, 2)
    assert len(patches) > 8
    host = OnnxRuntimeCpu()
    cut = backend.cut(backend.upload(image), patches)
    np.testing.assert_array_equal(backend.download(cut), host.cut(image, patches))
    whole = backend.empty((1, 2, 20, 17, 26))
    backend.paste(cut, patches, whole)
    np.testing.assert_array_equal(backend.download(whole), image)
    *_, (done, count, (joined,)) = run_in_patches(
        backend, lambda buffers: buffers, [backend.upload(image)], patches
    )
    assert done == count == len(patches)
    np.testing.assert_array_equal(backend.download(joined), image)


def test_memory_that_runs_out_is_said(backend):
    with pytest.raises(BackendError, match=r"\(cudaErrorMemoryAllocation\): use a smaller image"):
        backend.empty((1, 64, 1024, 1024, 1024))
