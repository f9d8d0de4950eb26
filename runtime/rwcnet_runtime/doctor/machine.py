"""What this machine has to run graphs with."""

from __future__ import annotations

from collections.abc import Iterator

import onnxruntime as ort

from rwcnet_runtime.devices import gpus, thread_count
from rwcnet_runtime.engines.products import PRODUCTS
from rwcnet_runtime.versions import version_of

_BOTH = (
    "warning: onnxruntime and onnxruntime-gpu install the same files, and which of them is there "
    "is chance: pip uninstall onnxruntime onnxruntime-gpu, then install one"
)


def backends() -> Iterator[str]:
    """Yield a line a backend: its version, or how to get it."""
    runtimes = ("onnxruntime", "onnxruntime-gpu")
    found = {name: version for name in runtimes if (version := version_of(name))}
    for name, version in found.items():
        yield f"{name} {version}: {', '.join(ort.get_available_providers())}"
    if len(found) > 1:
        yield _BOTH
    openvino = version_of("openvino")
    yield (
        f"openvino {openvino}"
        if openvino
        else 'openvino is not installed: pip install "rwcnet[openvino]"'
    )
    for product in PRODUCTS:
        yield (
            f"{product.name} {product.version}"
            if product.version
            else f'{product.name} is not installed: pip install "rwcnet[{product.name}]"'
        )


def devices() -> Iterator[str]:
    """Yield a line a device."""
    yield f"CPU: {thread_count()} cores for this process"
    found = gpus()
    for gpu in found:
        yield f"{gpu.name}: compute capability {gpu.sm}, driver {gpu.driver}"
    if not found:
        yield "no CUDA device found"
