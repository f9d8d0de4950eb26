"""The kernel on a GPU is the torch definition. One test, so that without a GPU one test skips."""

import ctypes

import pytest
import torch

from rwcnet_runtime.kernels.local_correlation import NAME


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_kernel_is_the_definition(kernels, make_case):
    from cuda.core import Device, LaunchConfig, ObjectCode, launch

    device = Device(torch.cuda.current_device())
    device.set_current()
    stream = device.create_stream()
    for kernel in kernels:
        function = ObjectCode.from_ptx(kernel.compile()).get_kernel(NAME)
        for size in [(1, 1, 1), (5, 9, 33), (40, 48, 56)]:
            case = make_case(kernel, size)
            inputs = [x.cuda() for x in case.inputs]
            out = torch.full_like(case.expected, torch.nan, dtype=inputs[0].dtype, device="cuda")
            torch.cuda.synchronize()
            grid = kernel.blocks(size), len(out)
            integers = [ctypes.c_int(n) for n in size]
            arguments = [*(x.data_ptr() for x in inputs), *integers, out.data_ptr()]
            launch(stream, LaunchConfig(grid=grid, block=kernel.threads), function, *arguments)
            stream.sync()
            # 1e-4 in float32, half a unit in the last place more in float16.
            assert (out.float().cpu() - case.expected).abs().max() < case.tolerance
