"""The coarse-to-fine chain of stages over ONNX graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from rwcnet_runtime.backend import Array, Session, require_arithmetic
from rwcnet_runtime.bundle import Bundle, StageEntry
from rwcnet_runtime.patches import lay_out, run_in_patches

Progress = Callable[[str, float], None]


def downsample(image: Array, factor: int) -> Array:
    """Average blocks of factor^3 voxels of (b, c, i, j, k); axes are multiples of the factor."""
    b, c, i, j, k = (n // f for n, f in zip(image.shape, (1, 1, *[factor] * 3), strict=True))
    blocks = image.reshape(b, c, i, factor, j, factor, k, factor)
    averages: Array = blocks.mean(axis=(3, 5, 7), dtype=np.float32)
    return averages


def every(image: Array, factor: int) -> Array:
    """Keep every factor-th voxel of (b, c, i, j, k) along each axis, the first one on."""
    return np.ascontiguousarray(image[:, :, ::factor, ::factor, ::factor])


class Cascade:
    """A bundle's stages in one precision, loaded and ready for any number of pairs.

    Parameters
    ----------
    bundle
        Where the graphs are.
    engine
        Precision, one of `bundle.engines`.

    Raises
    ------
    BundleError
        If the bundle lacks a graph, or ONNX Runtime refuses one.
    BackendError
        If the bundle does not hold the precision, or a CPU cannot run it.
    """

    def __init__(self, bundle: Bundle, engine: str = "fp32") -> None:
        self.entries = bundle.manifest.stages
        self._reduce = {"average": downsample, "nearest": every}[bundle.manifest.reduction]
        paths = [bundle.stage_path(n, engine) for n in range(len(self.entries))]
        require_arithmetic(engine)
        self._stages = [Session(path) for path in paths]
        self._enter = [
            Session(bundle.graph_path(f"enter{n + 1}.onnx")) for n in range(1, len(self.entries))
        ]
        self._compose = Session(bundle.graph_path("compose.onnx"))

    def run(
        self, fixed: Array, moving: Array, progress: Progress = lambda part, share: None
    ) -> tuple[Array, dict[str, float]]:
        """Register one pair.

        Parameters
        ----------
        fixed, moving
            (1, 1, i, j, k) float32 within 0..1 on one grid, axes a multiple of the manifest's.
        progress
            Called with a stage's name and the share of it that is done.

        Returns
        -------
        flow
            (1, 3, i, j, k) float32: ``warped(x) = moving(x + flow(x))``, in voxels.
        seconds
            Time spent in each part.
        """
        seconds: dict[str, float] = {}
        below: list[Array] = []  # flow, and hidden state where the next stage takes it
        for n, (entry, session) in enumerate(zip(self.entries, self._stages, strict=True)):
            name = f"stage{n + 1}"
            start = time.perf_counter()
            still = self._reduce(fixed, entry.resolution)
            warped = self._reduce(moving, entry.resolution)
            flow_below = None
            inherited: list[Array] = []
            if n:
                # The whole moving image is warped before patches are cut.
                found = {"flow": below[0]} | ({"hidden": below[1]} if entry.inherits else {})
                warped, flow_below, *inherited = self._enter[n - 1].run(moving=warped, **found)
            lifted = time.perf_counter()
            below = self._run_stage(
                session, entry, [still, warped, *inherited], partial(progress, name)
            )
            ran = time.perf_counter()
            if flow_below is not None:
                below[:1] = self._compose.run(step=below[0], below=flow_below)
            seconds[name] = ran - lifted
            seconds["chain"] = seconds.get("chain", 0.0) + (
                lifted - start + time.perf_counter() - ran
            )
        return below[0], seconds

    @staticmethod
    def _run_stage(
        session: Session, entry: StageEntry, inputs: list[Array], progress: Callable[[float], None]
    ) -> list[Array]:
        names = ("fixed", "moving", "hidden")[: len(inputs)]

        def run(arrays: list[Array]) -> list[Array]:
            return session.run(**dict(zip(names, arrays, strict=True)))

        patches = lay_out(inputs[0].shape[2:], entry.patch, entry.halo, entry.parts)
        results: list[Array] = []
        for done, count, joined in run_in_patches(run, inputs, patches):
            results = joined
            progress(done / count)
        return results
