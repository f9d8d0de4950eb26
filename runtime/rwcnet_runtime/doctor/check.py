"""A pair of the user's registered in every precision of a bundle, and how far they are apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.errors import BackendError, BundleError, InputError
from rwcnet_runtime.metrics import flow_distance
from rwcnet_runtime.registration import register

REFERENCE = "fp32"


def compare_precisions(bundle: Bundle, fixed: Path, moving: Path) -> Iterator[str]:
    """Yield a table: lengths of differences between flows, in voxels of the fixed image.

    The reference is the fp32 cascade in ONNX Runtime on the CPU, since there is no PyTorch here;
    `rwcnet-export --check` compares that one with PyTorch.

    Raises
    ------
    InputError
        If a file cannot be used, or the bundle holds nothing to compare.
    BackendError, BundleError
        If the reference does not run.
    """
    others = [engine for engine in bundle.engines if engine != REFERENCE]
    if not others:
        raise InputError(
            f"the bundle holds {REFERENCE} alone, so there is nothing to compare it with here: "
            "rwcnet-export --check FIXED MOVING compares it with PyTorch"
        )
    expected = _flow(bundle, REFERENCE, fixed, moving)
    largest = np.linalg.norm(expected, axis=0).max()
    yield (
        f"against {REFERENCE} in ONNX Runtime on the CPU (no PyTorch here), whose largest "
        f"displacement is {largest:.2f} voxels"
    )
    yield f"{'precision':11}{'mean':9}{'p99':9}{'max':9}(voxels)"
    for engine in others:
        try:
            found = _flow(bundle, engine, fixed, moving)
        except (BackendError, BundleError) as error:
            yield f"{engine:11}not run: {error}"
            continue
        mean, p99, most = flow_distance(found, expected)
        yield f"{engine:11}{mean:<9.4f}{p99:<9.4f}{most:<9.4f}"


def _flow(bundle: Bundle, engine: str, fixed: Path, moving: Path) -> NDArray[np.float32]:
    flow = register(fixed, moving, engine=engine, bundle=bundle).mapping.flow_vox
    assert flow is not None
    return flow
