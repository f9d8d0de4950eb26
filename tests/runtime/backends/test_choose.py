import pytest

from rwcnet_runtime.backends import choose as module
from rwcnet_runtime.backends import openvino
from rwcnet_runtime.backends.choose import open_cascade
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.openvino import OpenVino
from rwcnet_runtime.backends.tensorrt import TensorRt
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.devices import Gpu
from rwcnet_runtime.errors import BackendError, InputError


def choose(name, engine, threads=None):
    cascade, reason = open_cascade(Bundle.open(), engine, name, threads)
    return cascade.backend, reason


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(module, "gpus", list)


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setattr(OpenVino, "missing", classmethod(lambda cls: "OpenVINO is not installed"))


def test_auto_takes_the_fastest_that_computes_in_the_precision_and_says_why():
    backend, reason = choose("auto", "fp32", threads=1)
    assert (backend.name, backend.device, backend.threads) == ("openvino", "cpu", 1)
    assert reason == "the fastest that works here; no NVIDIA GPU"
    backend, reason = choose("auto", "fp16")
    assert backend.name == "onnxruntime"
    assert reason == (
        "the fastest that works here; no NVIDIA GPU; openvino runs this bundle in fp32 and bf16"
    )


def test_auto_without_the_extra_says_what_would_be_faster(without_openvino):
    backend, reason = choose("auto", "fp32")
    assert isinstance(backend, OnnxRuntimeCpu)
    assert reason == "the fastest that works here; no NVIDIA GPU; OpenVINO is not installed"
    with pytest.raises(
        BackendError,
        match="nothing here runs bf16: no NVIDIA GPU; OpenVINO",
    ):
        choose("auto", "bf16")


def test_what_is_asked_for_is_taken_or_refused():
    backend, reason = choose("onnxruntime", "fp16")
    assert (backend.name, reason) == ("onnxruntime", "asked for")
    with pytest.raises(BackendError, match="openvino runs fp32 and bf16 here, not fp16"):
        choose("openvino", "fp16")
    with pytest.raises(InputError, match="no backend tpu: choose from auto, tensorrt, "):
        choose("tpu", "fp32")
    with pytest.raises(InputError, match="--threads 0 does not fit the"):
        choose("auto", "fp32", 0)
    with pytest.raises(InputError, match="--threads 5000 does not fit the"):
        choose("auto", "fp32", 5000)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r'pip install "rwcnet\[openvino\]"'):
        choose("openvino", "fp32")


def test_every_backend_has_a_name_of_its_own():
    assert len(set(module.NAMES)) == len(module.NAMES)


def test_auto_goes_on_where_a_gpu_is_there_and_does_not_work(monkeypatch, install):
    """As with a driver older than the CUDA that is installed."""
    install("tensorrt")
    for place in ("backends.choose", "backends.cuda", "backends.tensorrt"):
        monkeypatch.setattr(f"rwcnet_runtime.{place}.gpus", lambda: [Gpu("A", "8.9", "500.1")])

    def broken(self, threads):
        raise BackendError("CUDA failed")

    monkeypatch.setattr(TensorRt, "__init__", broken)
    backend, reason = choose("auto", "fp32")
    assert backend.name == "openvino"
    assert "; CUDA failed; " in reason


def test_auto_takes_what_runs_this_bundle(monkeypatch, install):
    install("tensorrt")
    for place in ("backends.choose", "backends.cuda", "backends.tensorrt"):
        monkeypatch.setattr(f"rwcnet_runtime.{place}.gpus", lambda: [Gpu("A", "8.9", "580.1")])
    # TensorRT runs bf16 graphs, of which the packaged bundle holds none.
    backend, reason = choose("auto", "bf16")
    assert backend.name == "openvino"
    assert "tensorrt runs this bundle in fp16 and fp32" in reason


def test_bf16_is_refused_on_a_cpu_without_it(monkeypatch):
    monkeypatch.setattr(openvino, "_has_bf16", lambda: False)
    with pytest.raises(BackendError, match="this CPU does not compute in bf16: choose --engine fp"):
        choose("openvino", "bf16")
    assert OpenVino.engines(Bundle.open()) == ["fp32"]
