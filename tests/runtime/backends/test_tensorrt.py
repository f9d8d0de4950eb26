"""Engines that are run, by stand-ins for TensorRT and CUDA: no GPU was there to run this on."""

import nibabel as nib
import numpy as np
import pytest

from rwcnet_runtime.backends.choose import open_cascade
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.tensorrt import TensorRt
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.devices import Gpu
from rwcnet_runtime.engines.cache import PlanCache
from rwcnet_runtime.engines.stages import compile_chain, compile_stages
from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.registrar import Registrar, register

BUNDLE = Bundle.open()
RNG = np.random.default_rng(0)


def images(*shape):
    return RNG.random((2, 1, 1, *shape), dtype=np.float32)


def test_the_cascade_is_that_of_onnx_runtime(running):
    cascade, reason = open_cascade(BUNDLE)
    backend = cascade.backend
    assert (backend.name, backend.device) == ("tensorrt", "cuda:0")
    assert reason == "the fastest that works here"
    said = []
    backend.say = said.append
    for shape in ((64, 72, 80), (68, 64, 64)):
        pair = images(*shape)
        found, _ = cascade.run(*pair)
        expected, _ = Cascade(BUNDLE, "fp32", OnnxRuntimeCpu()).run(*pair)
        np.testing.assert_allclose(found, expected, atol=1e-5)  # voxels
    # Built once each, for all usual sizes.
    assert len(said) == len(PlanCache().plans()) == 6
    assert all("engine built in" in line for line in said)


def test_an_engine_that_was_compiled_for_the_size_is_taken(running):
    shape = (32, 40, 24)
    assert len(compile_stages(BUNDLE, running, [shape], range(3))) == 6  # both precisions
    compile_chain(BUNDLE, running, [shape])
    backend = TensorRt()
    backend.say = pytest.fail  # nothing is built
    Cascade(BUNDLE, "fp16", backend).run(*images(*shape))


def test_an_image_outside_the_usual_sizes_gets_engines_of_its_own(running):
    backend = TensorRt()
    Cascade(BUNDLE, "fp32", backend).run(*images(32, 40, 24))
    (entering,) = (
        plan
        for plan in PlanCache().plans()
        if plan.facts["onnx"] == BUNDLE.manifest.files["enter3.onnx"]
    )
    smallest, usual, largest = entering.facts["profile"]["moving"]
    assert (smallest, usual, largest) == ([1, 32, 40, 24], [1, 32, 40, 24], [1, 256, 256, 256])


def test_working_memory_is_shared(running, gpu):
    backend = TensorRt()
    first = backend.scratch(1001)
    assert backend.scratch(500) == first
    assert backend.scratch(10_000) != first


def test_what_fails_is_one_sentence(running):
    backend = TensorRt()
    graph = backend.open(BUNDLE, "compose.onnx", "fp32")
    graph.prepare((64, 64, 64))
    flow = backend.upload(np.zeros((1, 3, 300, 64, 64), np.float32))
    with pytest.raises(BackendError, match=r"TensorRT failed on .*300.* of compose.onnx"):
        graph.run(step=flow, below=flow)


def test_a_plan_that_does_not_load_is_named(running):
    backend = TensorRt()
    backend.loader = type("Loader", (), {"deserialize_cuda_engine": lambda self, plan: None})()
    backend.errors.log(1, "made by\nanother version")
    with pytest.raises(BackendError, match=r"does not load \S+plan \(made by another version\)"):
        backend.open(BUNDLE, "compose.onnx", "fp32").prepare((64, 64, 64))


def test_a_damaged_plan_is_not_loaded(running):
    backend = TensorRt()
    backend.open(BUNDLE, "compose.onnx", "fp32").prepare((64, 64, 64))
    (plan,) = PlanCache().plans()
    plan.path.write_bytes(plan.path.read_bytes() + b"x")
    with pytest.raises(BackendError, match="is damaged"):
        TensorRt().open(BUNDLE, "compose.onnx", "fp32").prepare((64, 64, 64))


def test_what_is_not_there_is_said_with_what_to_do(install, monkeypatch, gpu):
    monkeypatch.setattr("rwcnet_runtime.engines.products.version_of", lambda name: None)
    with pytest.raises(BackendError, match=r'tensorrt is not .*pip install "rwcnet\[tensorrt\]"'):
        open_cascade(BUNDLE, "fp32", "tensorrt")


@pytest.mark.parametrize(
    ("sm", "runs"), [("8.0", False), ("8.6", True), ("8.9", True), ("9.0", False), ("12.0", True)]
)
def test_tensorrt_rtx_refuses_the_gpus_of_data_centres(gpu, install, monkeypatch, sm, runs):
    from rwcnet_runtime.backends import tensorrt

    install("tensorrt-rtx")
    monkeypatch.setattr(tensorrt, "gpus", lambda: [Gpu("NVIDIA X", sm, "580.1")])
    reason = tensorrt.TensorRtRtx.missing()
    assert (reason is None) == runs
    if not runs:
        assert "tensorrt-rtx does not run on NVIDIA X" in reason
        assert reason.endswith("; tensorrt does")


def test_without_a_gpu_it_is_refused(install, monkeypatch):
    install("tensorrt")
    monkeypatch.setattr("rwcnet_runtime.backends.cuda.gpus", list)
    with pytest.raises(BackendError, match="tensorrt needs an NVIDIA GPU, and nvidia-smi names no"):
        open_cascade(BUNDLE, "fp32", "tensorrt")


def test_a_registration_from_files_to_report(running, tmp_path):
    """As a user has it, with the distributions that pip installs."""
    about = tmp_path / "site" / "tensorrt_cu13-11.4.dist-info"
    (tmp_path / "site" / "tensorrt-9.9.dist-info").rename(about)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt-cu13\nVersion: 11.4\n")
    for name in "fm":
        image = nib.Nifti1Image(RNG.random((20, 24, 28), dtype=np.float32), np.eye(4))
        image.set_sform(np.eye(4), code=1)
        nib.save(image, tmp_path / f"{name}.nii")
    said = []
    registrar = Registrar(backend="tensorrt", refine=0, say=said.append)
    found = registrar.register(tmp_path / "f.nii", tmp_path / "m.nii")
    assert found.report["versions"]["tensorrt-cu13"] == "11.4"
    assert (found.report["backend"], found.report["device"]) == ("tensorrt", "cuda:0")
    assert len(said) == 6
    expected = register(tmp_path / "f.nii", tmp_path / "m.nii", backend="onnxruntime", refine=0)
    np.testing.assert_allclose(found.displacement_mm, expected.displacement_mm, atol=1e-4)  # mm


def test_an_engine_without_memory_or_sizes_is_said(running):
    backend = TensorRt()
    graph = backend.open(BUNDLE, "compose.onnx", "fp32")
    graph.prepare((64, 64, 64))
    flow = backend.upload(np.zeros((1, 3, 64, 64, 64), np.float32))
    graph._context.get_tensor_shape = lambda name: (-1, 3, -1, -1, -1)
    with pytest.raises(BackendError, match="TensorRT failed on"):
        graph.run(step=flow, below=flow)
    engine = type(graph._loaded)
    engine.create_execution_context = lambda self, strategy: None
    with pytest.raises(BackendError, match="has no memory to run"):
        backend.open(BUNDLE, "enter3.onnx", "fp32").prepare((64, 64, 64))
