"""`rwcnet::LocalCorrelation3d` as a TensorRT plugin, compiled ahead of time into the plan.

A plan that was built with it holds the kernel's PTX and its launch: whatever runs the plan (C++,
trtexec) needs neither this package nor Python.
"""

# No `from __future__ import annotations`: TensorRT reads the annotations below and wants the types.

import functools

from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.kernels.local_correlation import NAME, CorrelationKernel

ID = "rwcnet::LocalCorrelation3d"

_compile = functools.cache(CorrelationKernel.compile)  # the nodes of a graph are of few kinds


@functools.cache
def register() -> None:
    """Register the plugin with TensorRT: graphs parsed from now on take it.

    Call nodes name it by `plugin_namespace` and `plugin_version`. Without it TensorRT runs the
    function body that every graph carries.

    Raises
    ------
    BackendError
        If TensorRT is not installed or too old: the first one with CUDA 13 is 10.13.
    """
    try:
        import cuda.bindings.nvrtc  # noqa: F401  (or the build would fail in the middle)
        import tensorrt as trt
        import tensorrt.plugin as trtp
        from tensorrt.plugin import KernelLaunchParams, TensorDesc
    except ImportError as error:
        raise BackendError(
            f"the plugin {ID} needs TensorRT 10.13 or later and NVRTC, which do not load "
            f'({error}); pip install "rwcnet[tensorrt]"'
        ) from error

    @trtp.register(ID)  # type: ignore[untyped-decorator]
    def describe(
        fixed: TensorDesc,
        moving: TensorDesc,
        weight: TensorDesc,
        bias: TensorDesc,
        radius: int,
        metric: str,
    ) -> TensorDesc:
        out = fixed.like()
        out.shape_expr[1] = weight.shape_expr[0]
        return out

    @trtp.autotune(ID)  # type: ignore[untyped-decorator]
    def tune(
        fixed: TensorDesc,
        moving: TensorDesc,
        weight: TensorDesc,
        bias: TensorDesc,
        outputs: tuple[TensorDesc],
    ) -> list[trtp.AutoTuneCombination]:
        # Networks are strongly typed: the type is the graph's, the same for all.
        return [trtp.AutoTuneCombination(", ".join(["FP32|FP16"] * 5), "LINEAR")]

    @trtp.aot_impl(ID)  # type: ignore[untyped-decorator]
    def compile_and_launch(
        fixed: TensorDesc,
        moving: TensorDesc,
        weight: TensorDesc,
        bias: TensorDesc,
        radius: int,
        metric: str,
        outputs: tuple[TensorDesc],
        tactic: int,
    ) -> tuple[str, bytes, KernelLaunchParams, trtp.SymIntExprs]:
        half = fixed.dtype == trt.float16
        chosen = metric.rstrip("\0")  # the parser hands strings over with their closing zero
        kernel = CorrelationKernel(fixed.shape[1], weight.shape[0], radius, chosen, half)
        batch, _, *size = fixed.shape_expr
        blocks = [trtp.cdiv(n, t) for n, t in zip(size, kernel.tile, strict=True)]
        launch = KernelLaunchParams(
            grid_x=blocks[0] * blocks[1] * blocks[2], grid_y=batch, block_x=kernel.threads
        )
        # They come to the kernel between its inputs and its output.
        sizes = trtp.SymIntExprs.from_tuple([trtp.SymInt32(n) for n in size])
        return NAME, _compile(kernel), launch, sizes
