"""TensorRT and TensorRT-RTX: engines from the cache, or built into it."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from rwcnet_runtime.backends.cuda import CudaBackend, DeviceArray
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.devices import gpus
from rwcnet_runtime.engines.cache import Plan
from rwcnet_runtime.engines.messages import error_log
from rwcnet_runtime.engines.products import TENSORRT, TENSORRT_RTX, Product
from rwcnet_runtime.engines.profile import (
    DEFAULT_SHAPES,
    Profile,
    Shape,
    chain_profile,
    covers,
    stage_profile,
)
from rwcnet_runtime.engines.stages import compile_graph, fitting_plan
from rwcnet_runtime.errors import BackendError

# Of all graphs, each in its order.
_OUTPUTS = ("warped", "flow", "flow_out", "hidden_out")
_ARITHMETIC = {
    "fp32": "float32, without TF32",
    "fp16": "float16, the flow path in float32",
    "bf16": "bfloat16, the flow path in float32",
}


class TensorRt(CudaBackend):
    """Runs engines that TensorRT built."""

    product: ClassVar[Product] = TENSORRT
    name = TENSORRT.name
    programs = TENSORRT.distributions
    extra = TENSORRT.name
    how_to_install = 'tensorrt is not installed: pip install "rwcnet[tensorrt]"'
    arithmetic: ClassVar = _ARITHMETIC

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        try:
            self.trt: Any = import_module(self.product.module)
        except ImportError as error:
            raise BackendError(
                f"{self.product.title} {self.product.version} does not load ({error}): install it "
                "again, or choose --backend onnxruntime"
            ) from error
        self.errors = error_log(self.trt)
        # `engine_host_code_allowed` stays as it is, False: no code of a plan runs on the CPU.
        self.loader: Any = self.trt.Runtime(self.errors)
        self._graphs: list[EngineGraph] = []
        self._scratch = DeviceArray(0, (0,))

    @classmethod
    def installed(cls) -> bool:
        """Return whether the product is there, whole."""
        return cls.product.version is not None

    def open(self, bundle: Bundle, name: str, engine: str) -> EngineGraph:
        """Return a graph whose engine is loaded when the size of an image is known."""
        bundle.graph_path(name)  # refuses what is not there now rather than then
        graph = EngineGraph(self, bundle, name, engine)
        self._graphs.append(graph)
        return graph

    def prepare(self, shape: Shape) -> None:
        """Load engines for an image size, and build those that the cache does not have."""
        for graph in self._graphs:
            graph.prepare(shape)

    def scratch(self, size: int) -> int:
        """Return the address of working memory, the same for all engines: one runs at a time."""
        floats = -(-size // 4)
        if self._scratch.shape[0] < floats:
            self._scratch = self.empty((floats,))
        return self._scratch.pointer


class TensorRtRtx(TensorRt):
    """Runs engines that TensorRT-RTX built."""

    product = TENSORRT_RTX
    name = TENSORRT_RTX.name
    programs = TENSORRT_RTX.distributions
    extra = TENSORRT_RTX.name
    how_to_install = 'tensorrt-rtx is not installed: pip install "rwcnet[tensorrt-rtx]"'

    @classmethod
    def missing(cls) -> str | None:
        """Say also whether the GPU is one that the product refuses: A100, H100, H200.

        On 7.5, which it knows, it refuses 3-D convolutions in float32.
        """
        reason = super().missing()
        if reason is None:
            gpu = gpus()[0]
            major, minor = map(int, gpu.sm.split("."))
            if (major, minor) not in ((8, 6), (8, 9)) and major < 12:
                return (
                    f"tensorrt-rtx does not run on {gpu.name} (compute capability {gpu.sm}); "
                    "tensorrt does"
                )
        return reason


class EngineGraph:
    """A graph of a bundle, run as an engine.

    Parameters
    ----------
    backend, bundle, name, engine
        As `TensorRt.open` is given them.
    """

    def __init__(self, backend: TensorRt, bundle: Bundle, name: str, engine: str) -> None:
        self._backend, self._bundle, self._name, self._engine = backend, bundle, name, engine
        self._plan: Plan | None = None
        self._loaded: Any = None
        self._context: Any = None

    def prepare(self, shape: Shape) -> None:
        """Load the engine for an image size, unless the one that is loaded takes it.

        Raises
        ------
        BackendError
            If it cannot be built, or not be loaded.
        """
        needed = self._profile((shape,))
        if self._plan is not None and covers(self._plan.facts["profile"], needed):
            return
        # Chain graphs are in fp32 in the bundle, whatever the stages are in.
        precision = self._engine if "/" in self._name else "fp32"
        facts = (self._bundle, self._backend.product, self._name, precision)
        plan = fitting_plan(*facts, needed)
        if plan is None:
            usual = self._profile(DEFAULT_SHAPES)
            wanted = usual if covers(usual, needed) else self._profile((shape, *DEFAULT_SHAPES))
            plan = compile_graph(*facts, wanted, self._backend.say)
        self._load(plan)

    def _profile(self, shapes: tuple[Shape, ...]) -> Profile:
        manifest = self._bundle.manifest
        if "/" not in self._name:
            return chain_profile(manifest, self._name, shapes)
        number = self._name.rpartition("/stage")[2].removesuffix(".onnx")
        return stage_profile(manifest.stages[int(number) - 1], shapes)

    def _load(self, plan: Plan) -> None:
        backend = self._backend
        # A plan with our kernel holds its PTX: the plugin is needed to build it, not to run it.
        engine = backend.loader.deserialize_cuda_engine(plan.read())
        if engine is None:
            raise BackendError(
                f"{backend.product.title} does not load {plan.path} ({backend.errors.last()}): "
                "remove it, and it is built again"
            )
        managed = backend.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(managed)
        if context is None:
            raise BackendError(
                f"{backend.product.title} has no memory to run {plan.path} "
                f"({backend.errors.last()}): choose --backend onnxruntime"
            )
        names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
        output = backend.trt.TensorIOMode.OUTPUT
        found = {name for name in names if engine.get_tensor_mode(name) == output}
        # In the order of the graph, which the engine need not keep.
        self._outputs = [name for name in _OUTPUTS if name in found]
        self._plan, self._loaded, self._context = plan, engine, context

    def run(self, **inputs: DeviceArray) -> list[DeviceArray]:
        """Run the engine, see `Graph.run`."""
        backend, context = self._backend, self._context
        if not all(context.set_input_shape(name, x.shape) for name, x in inputs.items()):
            raise self._failed(inputs)
        shapes = [tuple(context.get_tensor_shape(name)) for name in self._outputs]
        if any(n < 1 for shape in shapes for n in shape):
            raise self._failed(inputs)
        outputs = [backend.empty(shape) for shape in shapes]
        bound = inputs | dict(zip(self._outputs, outputs, strict=True))
        if not all(context.set_tensor_address(name, x.pointer) for name, x in bound.items()):
            raise self._failed(inputs)
        # Less than the engine would take for the largest sizes of its profile.
        size = context.update_device_memory_size_for_shapes()
        context.set_device_memory(backend.scratch(max(size, 1)), size)
        if not context.execute_async_v3(backend.stream):
            raise self._failed(inputs)
        return outputs

    def rest(self) -> None:
        """Do nothing: working memory is the backend's, and serves the next engine."""

    def _failed(self, inputs: dict[str, DeviceArray]) -> BackendError:
        sizes = {name: buffer.shape for name, buffer in inputs.items()}
        return BackendError(
            f"{self._backend.product.title} failed on {sizes} of {self._name} "
            f"({self._backend.errors.last()}): try --backend onnxruntime"
        )
