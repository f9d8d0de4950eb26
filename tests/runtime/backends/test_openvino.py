"""OpenVINO beside ONNX Runtime on the packaged bundle."""

import numpy as np
import pytest

from rwcnet_runtime.backends import openvino
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.openvino import CompiledGraph, OpenVino
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.errors import BackendError, BundleError


@pytest.fixture(scope="module")
def pair():
    """Two images of blobs, the second moved by up to two voxels."""
    i, j, k = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (48, 40, 56)), indexing="ij")

    def image(shift):
        waves = np.sin((i + shift) / 4) * np.cos((j - shift) / 5) * np.sin((k + shift / 2) / 6)
        return ((waves + 1) / 2).astype(np.float32)[None, None]

    return image(0.0), image(2.0)


@pytest.fixture(scope="module")
def expected(pair):
    return Cascade(Bundle.open(), "fp32", OnnxRuntimeCpu()).run(*pair)[0]


def test_fp32_gives_the_flow_of_onnx_runtime_and_other_sizes_after_it(pair, expected):
    cascade = Cascade(Bundle.open(), "fp32", OpenVino())
    found, _ = cascade.run(*pair)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-3)  # voxels
    smaller, _ = cascade.run(*(np.ascontiguousarray(image[..., :32]) for image in pair))
    assert smaller.shape == (1, 3, 48, 40, 32)
    again, _ = cascade.run(*pair)
    np.testing.assert_array_equal(found, again)


@pytest.mark.skipif(not openvino._has_bf16(), reason="needs a CPU with bf16")
def test_bf16_is_another_arithmetic_and_stays_near(pair, expected):
    found, _ = Cascade(Bundle.open(), "bf16", OpenVino()).run(*pair)
    distance = np.linalg.norm(found - expected, axis=1)
    assert 1e-4 < distance.mean() < 0.02  # voxels


def test_results_are_not_written_over_by_the_next_call():
    graph = CompiledGraph(Bundle.open().graph_path("compose.onnx"), "fp32", 1)
    flow = np.random.default_rng(0).random((1, 3, 6, 5, 4), dtype=np.float32)
    (first,) = graph.run(step=flow, below=flow)
    kept = first.copy()
    graph.run(step=0 * flow, below=flow)
    np.testing.assert_array_equal(first, kept)


def test_a_file_that_is_no_graph_and_inputs_that_do_not_fit_are_said_in_one_sentence(tmp_path):
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"OpenVINO 20\S+ cannot load .*graph.onnx"):
        CompiledGraph(tmp_path / "graph.onnx", "fp32", 1)
    graph = CompiledGraph(Bundle.open().graph_path("compose.onnx"), "fp32", 1)
    flow = np.zeros((1, 3, 6, 5, 4), np.float32)
    with pytest.raises(BackendError, match=r"OpenVINO failed on .* smaller image") as raised:
        graph.run(step=flow, below=flow[:, :1])
    assert "\n" not in str(raised.value)
