"""The kernel's source, compiled as C++ and run on the CPU, is the torch definition."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from rwcnet_runtime.kernels import local_correlation

COMPILER = shutil.which("g++") or shutil.which("clang++")
EMULATION = Path(__file__).with_name("on_cpu.cpp")
GUARD = 5000  # elements before and after an array that must be neither used nor written

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def _compile(kernel, source, folder):
    (folder / "kernel.cu").write_text(source)
    macros = kernel.macros | {"KERNEL": f'"{folder / "kernel.cu"}"'}
    command = [COMPILER, "-std=c++17", "-O1", "-w", "-shared", "-fPIC"]
    command += [f"-D{name}={value}" for name, value in macros.items()]
    subprocess.run([*command, str(EMULATION), "-o", str(folder / "kernel.so")], check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


def _guarded(array):
    """Return the array within a larger one full of NaN, and the larger one."""
    whole = torch.full((array.numel() + 2 * GUARD,), torch.nan, dtype=array.dtype)
    inner = whole[GUARD:-GUARD].view(array.shape)
    inner.copy_(array)
    return inner, whole


def _run(library, case, *, backwards=False):
    """Return the output, or None if the threads of a block did not wait for each other."""
    kernel, size = case.kernel, case.expected.shape[2:]
    inputs = [_guarded(x)[0] for x in case.inputs]
    out, whole = _guarded(torch.full_like(case.expected, torch.nan, dtype=inputs[0].dtype))
    at = [ctypes.c_void_p(x.data_ptr()) for x in (*inputs, out)]
    grid = kernel.blocks(size), len(out)
    if library.launch(*grid, kernel.threads, int(backwards), *at[:4], *size, at[4]):
        return None
    assert whole[:GUARD].isnan().all()
    assert whole[-GUARD:].isnan().all()
    return out.float()


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Compile each kernel once."""
    compiled = {}

    def get(kernel):
        if kernel not in compiled:
            folder = tmp_path_factory.mktemp("kernel")
            compiled[kernel] = _compile(kernel, local_correlation.source(), folder)
        return compiled[kernel]

    return get


# One voxel; less than a tile on each axis; parts of several tiles on each axis.
@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 3, 31), (5, 9, 33)])
def test_the_kernel_is_the_definition(kernel, grid, libraries, make_case):
    case = make_case(kernel, grid)
    library = libraries(kernel)
    found = _run(library, case)
    # 1e-4 in float32, half a unit in the last place more in float16.
    assert (found - case.expected).abs().max() < case.tolerance
    # Whichever thread is ahead of the others.
    assert torch.equal(_run(library, case, backwards=True), found)


@pytest.mark.parametrize("nth", range(4))
def test_each_barrier_is_needed(kernels, nth, tmp_path, make_case):
    """Without it, threads ahead of the others read or write too early, and it shows."""
    kernel = kernels[1]  # averages, so that it has them all
    parts = local_correlation.source().split("__syncthreads();")
    assert len(parts) == 5
    without = "__syncthreads();".join(parts[: nth + 1]) + "__syncthreads();".join(parts[nth + 1 :])
    library = _compile(kernel, without, tmp_path)
    case = make_case(kernel, (5, 9, 33))
    found = [_run(library, case, backwards=backwards) for backwards in (False, True)]
    wrong = [~((x - case.expected).abs() < case.tolerance).all() for x in found]
    assert any(wrong)


def test_a_barrier_that_only_some_threads_reach_is_seen(kernels, tmp_path, make_case):
    kernel = kernels[0]
    wrong = local_correlation.source().replace("__syncthreads();", "if (row) __syncthreads();", 1)
    assert _run(_compile(kernel, wrong, tmp_path), make_case(kernel, (5, 9, 33))) is None
