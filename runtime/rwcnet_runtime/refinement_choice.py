"""Whether and how flows are refined: what the user asks for, what the bundle says, what runs it."""

from __future__ import annotations

from dataclasses import replace

from rwcnet_runtime.backends.interface import Backend
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from rwcnet_runtime.bundle import REFINEMENT_FEATURES, Bundle, RefinementEntry
from rwcnet_runtime.errors import BundleError, InputError


def choose_refinement(
    bundle: Bundle, steps: int | None = None, features: str | None = None
) -> RefinementEntry | None:
    """Return how flows are refined, None where they are not.

    Parameters
    ----------
    bundle
        Says how by default.
    steps
        At most so many instead, 0 for none.
    features
        What is compared instead.

    Raises
    ------
    InputError
        If there is no such number of steps or such features, or features are given for no steps.
    BundleError
        If the bundle knows of no refinement where it is asked for.
    """
    if steps is not None and steps < 0:
        raise InputError(f"--refine {steps} is no number of steps: give 0 or more")
    if features is not None and features not in REFINEMENT_FEATURES:
        raise InputError(
            f"--refine-features {features}: choose from {', '.join(REFINEMENT_FEATURES)}"
        )
    entry = bundle.manifest.refinement
    if entry is None:
        if steps or features:
            raise BundleError(
                f"the bundle in {bundle.folder} cannot refine: export it again with this version "
                "of rwcnet, or leave --refine and --refine-features out"
            )
        return None
    entry = replace(
        entry,
        steps=entry.steps if steps is None else steps,
        features=features or entry.features,
    )
    if entry.steps == 0:
        if features is not None:
            raise InputError("--refine-features is about steps: give their number with --refine")
        return None
    return entry


def refinement_backend(backend: Backend) -> Backend:
    """Return what refines beside a backend: ONNX Runtime, on the GPU if that one computes there."""
    if isinstance(backend, OnnxRuntimeCpu | OnnxRuntimeCuda):
        return backend
    if backend.on_gpu and OnnxRuntimeCuda.missing() is None:
        return OnnxRuntimeCuda(backend.threads)
    return OnnxRuntimeCpu(backend.threads)
