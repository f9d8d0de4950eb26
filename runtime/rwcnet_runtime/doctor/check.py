"""A pair of the user's, registered in every way there is, and how far the flows are apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.backends.choose import BACKENDS
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.errors import BackendError, BundleError, InputError
from rwcnet_runtime.metrics import flow_distance
from rwcnet_runtime.registrar import register

REFERENCE = ("onnxruntime", "fp32")


def compare_precisions(bundle: Bundle, fixed: Path, moving: Path) -> Iterator[str]:
    """Yield a table: lengths of differences between flows, in voxels of the fixed image.

    The reference is the fp32 cascade in ONNX Runtime on the CPU, since there is no PyTorch here;
    `rwcnet-export --check` compares that one with PyTorch.

    Raises
    ------
    InputError
        If a file cannot be used, or there is nothing to compare.
    BackendError, BundleError
        If the reference does not run.
    """
    runs = [
        (kind.name, engine)
        for kind in BACKENDS
        if kind.missing() is None
        for engine in kind.engines(bundle)
    ]
    others = [run for run in runs if run != REFERENCE]
    if not others:
        raise InputError(
            "the bundle holds fp32 alone, and nothing but ONNX Runtime runs it here, so there is "
            "nothing to compare: rwcnet-export --check FIXED MOVING compares it with PyTorch"
        )
    expected = _flow(bundle, *REFERENCE, fixed, moving)
    largest = np.linalg.norm(expected, axis=0).max()
    yield (
        f"against fp32 in ONNX Runtime on the CPU (no PyTorch here), whose largest displacement is "
        f"{largest:.2f} voxels"
    )
    yield f"{'backend':18}{'precision':11}{'mean':9}{'p99':9}{'max':9}(voxels)"
    for backend, engine in others:
        head = f"{backend:18}{engine:11}"
        try:
            found = _flow(bundle, backend, engine, fixed, moving)
        except (BackendError, BundleError) as error:
            yield f"{head}not run: {error}"
            continue
        mean, p99, most = flow_distance(found, expected)
        yield f"{head}{mean:<9.4f}{p99:<9.4f}{most:<9.4f}"


def _flow(
    bundle: Bundle, backend: str, engine: str, fixed: Path, moving: Path
) -> NDArray[np.float32]:
    # The network's own: steps of Adam would make more of a difference, or hide it.
    found = register(fixed, moving, backend=backend, engine=engine, refine=0, bundle=bundle)
    flow = found.mapping.flow_vox
    assert flow is not None
    return flow
