"""The kernel compiles for every GPU generation, without one; what cannot be compiled is said."""

import re
import sys

import pytest

from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.kernels.local_correlation import CorrelationKernel, source
from rwcnet_runtime.kernels.nvrtc import compile_cuda

CAPABILITIES = [80, 86, 89, 90, 100, 120]
SMALL = [
    CorrelationKernel(4, 4, 1, metric, half)
    for metric in ("dot", "absolute_difference")
    for half in (False, True)
]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kernel", SMALL, ids=str)
def test_machine_code_for_each_generation(kernel, capability):
    code = kernel.compile(f"sm_{capability}")
    assert code.startswith(b"\x7fELF")
    assert b"local_correlation" in code


def test_ptx_of_every_kernel_is_one_that_driver_580_reads(kernel):
    ptx = kernel.compile().decode().rstrip("\0")
    assert re.search(r"^\.version 9\.0$", ptx, re.MULTILINE)  # of CUDA 13.0, as is driver 580
    assert re.search(r"^\.target sm_80$", ptx, re.MULTILINE)
    assert ptx.count(".visible .entry local_correlation(") == 1
    # No stack: everything a thread keeps is in registers, as far as NVRTC decides it.
    assert ".local" not in ptx


@pytest.mark.parametrize(
    ("metric", "outputs", "radius", "message"),
    [
        ("cosine", 8, 3, "has no metric 'cosine', only dot and absolute_difference"),
        ("dot", 64, 3, "needs 89936 bytes of shared memory for radius 3 and 64 outputs"),
    ],
)
def test_what_the_kernel_cannot_do(metric, outputs, radius, message):
    with pytest.raises(BackendError, match=re.escape(message)):
        CorrelationKernel(8, outputs, radius, metric, half=False)


def test_channels_that_do_not_fit_together_go_in_groups():
    groups = {c: CorrelationKernel(c, 8, 3, "dot", False).macros["GROUP"] for c in (1, 16, 32, 34)}
    assert groups == {1: 1, 16: 16, 32: 16, 34: 2}
    assert CorrelationKernel(16, 20, 3, "dot", False).macros["GROUP"] == 8


def test_an_architecture_that_nvrtc_does_not_know():
    with pytest.raises(BackendError, match=r"NVRTC 13\.0 cannot compile x\.cu for sm_70: .*arch"):
        compile_cuda("x.cu", source(), {}, "sm_70")


def test_a_source_that_is_wrong_is_quoted():
    with pytest.raises(BackendError, match=r'(?s)cannot compile x\.cu.*"size" is undefined'):
        compile_cuda("x.cu", "__global__ void f() { size = 1; }", {}, "compute_80")


def test_without_nvrtc(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(
        BackendError, match=r"needs NVRTC 13\.0.*pip install \"rwcnet\[tensorrt\]\""
    ):
        SMALL[0].compile()
