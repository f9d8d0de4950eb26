"""Which backend runs a bundle: the one that is asked for, or the fastest that works here."""

from __future__ import annotations

from rwcnet_runtime.backends.interface import Backend
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from rwcnet_runtime.backends.openvino import OpenVino
from rwcnet_runtime.backends.tensorrt import TensorRt, TensorRtRtx
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.devices import gpus, thread_count
from rwcnet_runtime.errors import BackendError, InputError

AUTO = "auto"
# The fastest first on large images: measured on the CPU, expected of those on a GPU.
BACKENDS: tuple[type[Backend], ...] = (
    TensorRt,
    TensorRtRtx,
    OnnxRuntimeCuda,
    OpenVino,
    OnnxRuntimeCpu,
)
NAMES = (AUTO, *(kind.name for kind in BACKENDS))


def open_cascade(
    bundle: Bundle, engine: str = "fp32", name: str = AUTO, threads: int | None = None
) -> tuple[Cascade, str]:
    """Open a bundle on a backend, and say why on that one.

    Parameters
    ----------
    bundle
        Where the graphs are.
    engine
        The precision to compute in.
    name
        One of `NAMES`.
    threads
        CPU threads; all cores of the process by default, and no more than these.

    Raises
    ------
    InputError
        If there is no backend of that name, or there are not so many cores.
    BackendError
        If it does not work here, or does not compute in that precision.
    BundleError
        If the bundle lacks a graph, or the backend refuses one.
    """
    if name not in NAMES:
        raise InputError(f"there is no backend {name}: choose from {', '.join(NAMES)}")
    if threads is not None and not 1 <= threads <= thread_count():
        raise InputError(
            f"--threads {threads} does not fit the {thread_count()} cores that this process may "
            "use: give no more than these, and at least 1"
        )
    if name != AUTO:
        kind = next(kind for kind in BACKENDS if kind.name == name)
        if (reason := kind.missing()) is not None:
            raise BackendError(reason)
        kind.require(engine)
        return Cascade(bundle, engine, kind(threads)), "asked for"
    gpu = bool(gpus())
    passed = [] if gpu else ["no NVIDIA GPU"]
    for kind in BACKENDS:
        if kind.on_gpu and not gpu:
            continue
        reason = kind.missing()
        if reason is None and engine not in kind.engines(bundle):
            reason = f"{kind.name} runs this bundle in {' and '.join(kind.engines(bundle))}"
        if reason is None:
            try:
                cascade = Cascade(bundle, engine, kind(threads))
            except BackendError as error:
                reason = str(error)
            else:
                return cascade, "; ".join(["the fastest that works here", *passed])
        passed.append(reason)
    raise BackendError(f"nothing here runs {engine}: {'; '.join(passed)}")
