"""The coarse-to-fine chain of a bundle's graphs, on any backend."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from rwcnet_runtime.backends.interface import Array, Backend, Buffer, Graph
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.bundle import Bundle, Manifest, StageEntry
from rwcnet_runtime.patches import Patch, at_once, lay_out

Progress = Callable[[str, float], None]

_STEP_VOX = 0.25


def downsample(image: Array, factor: int) -> Array:
    """Average blocks of factor^3 voxels of (b, c, i, j, k); axes are multiples of the factor."""
    b, c, i, j, k = (n // f for n, f in zip(image.shape, (1, 1, *[factor] * 3), strict=True))
    blocks = image.reshape(b, c, i, factor, j, factor, k, factor)
    averages: Array = blocks.mean(axis=(3, 5, 7), dtype=np.float32)
    return averages


def every(image: Array, factor: int) -> Array:
    """Keep every factor-th voxel of (b, c, i, j, k) along each axis, the first one on."""
    return np.ascontiguousarray(image[:, :, ::factor, ::factor, ::factor])


def reduction(manifest: Manifest) -> Callable[[Array, int], Array]:
    """Return how images are brought to coarser grids for the stages of a bundle."""
    return {"average": downsample, "nearest": every}[manifest.reduction]


def run_in_patches(
    backend: Backend,
    run: Callable[[list[Buffer]], list[Buffer]],
    inputs: list[Buffer],
    patches: list[Patch],
) -> Iterator[tuple[int, int, list[Buffer]]]:
    """Run buffers (1, c, i, j, k) through `run` in batches of patches.

    Yields
    ------
    done, count
        Patches run so far, and in all.
    joined
        The results, whole; complete when `done` equals `count`.
    """
    if len(patches) == 1:
        # Whole: nothing to cut or join, and results may lie on a grid of their own.
        yield 1, 1, run(inputs)
        return
    shape = inputs[0].shape[2:]
    step = at_once(patches)
    joined: list[Buffer] = []
    for first in range(0, len(patches), step):
        group = patches[first : first + step]
        results = run([backend.cut(buffer, group) for buffer in inputs])
        if not joined:
            joined = [backend.empty((1, parts.shape[1], *shape)) for parts in results]
        for whole, parts in zip(joined, results, strict=True):
            backend.paste(parts, group, whole)
        yield first + len(group), len(patches), joined


class Cascade:
    """A bundle's stages in one precision, loaded and ready for any number of pairs.

    Parameters
    ----------
    bundle
        Where the graphs are.
    engine
        Precision, one of `bundle.engines`.
    backend
        What runs them; by default ONNX Runtime on the CPU.

    Raises
    ------
    BundleError
        If the bundle lacks a graph, or the backend refuses one.
    BackendError
        If the bundle does not hold the precision, or the backend does not take it.
    """

    def __init__(
        self, bundle: Bundle, engine: str = "fp32", backend: Backend | None = None
    ) -> None:
        self.entries = bundle.manifest.stages
        self.backend = backend or OnnxRuntimeCpu()
        self._reduce = reduction(bundle.manifest)
        everything = range(len(self.entries))
        self._stages = [self.backend.stage(bundle, n, engine) for n in everything]
        self._enter = [
            self.backend.open(bundle, f"enter{n + 1}.onnx", "fp32") for n in everything[1:]
        ]
        self._compose = self.backend.open(bundle, "compose.onnx", "fp32")

    def run(
        self,
        fixed: Array,
        moving: Array,
        progress: Progress = lambda part, share: None,
        *,
        integrated: bool = False,
    ) -> tuple[Array, dict[str, float]]:
        """Register one pair.

        Parameters
        ----------
        fixed, moving
            (1, 1, i, j, k) float32 within 0..1 on one grid, axes a multiple of the manifest's.
        progress
            Called with a stage's name and the share of it that is done.
        integrated
            Whether what a stage finds is taken for a stationary velocity, see `integrate`.

        Returns
        -------
        flow
            (1, 3, i, j, k) float32: ``warped(x) = moving(x + flow(x))``, in voxels.
        seconds
            Time spent in each part.
        """
        seconds: dict[str, float] = {}
        backend = self.backend
        i, j, k = fixed.shape[2:]
        backend.prepare((i, j, k))
        below: list[Buffer] = []  # flow, and hidden state where the next stage takes it
        for n, (entry, graph) in enumerate(zip(self.entries, self._stages, strict=True)):
            name = f"stage{n + 1}"
            start = time.perf_counter()
            still = backend.upload(self._reduce(fixed, entry.resolution))
            warped = backend.upload(self._reduce(moving, entry.resolution))
            flow_below = None
            inherited: list[Buffer] = []
            if n:
                # The whole moving image is warped before patches are cut.
                found = {"flow": below[0]} | ({"hidden": below[1]} if entry.inherits else {})
                warped, flow_below, *inherited = self._enter[n - 1].run(moving=warped, **found)
            backend.synchronize()
            lifted = time.perf_counter()
            below = self._run_stage(
                graph, entry, [still, warped, *inherited], partial(progress, name)
            )
            backend.synchronize()
            ran = time.perf_counter()
            if integrated:
                below[0] = self.integrate(below[0])
            if flow_below is not None:
                below[:1] = self._compose.run(step=below[0], below=flow_below)
            seconds[name] = ran - lifted
            seconds["chain"] = seconds.get("chain", 0.0) + (
                lifted - start + time.perf_counter() - ran
            )
        return backend.download(below[0]), seconds

    def integrate(self, velocity: Buffer) -> Buffer:
        """Integrate a stationary velocity by scaling and squaring (Arsigny et al. 2006).

        A flow that is composed with itself n times makes 2^n of its steps, by the bundle's own
        rule. So many are taken that none is longer than a quarter of a voxel: neighbours then
        differ by at most half of one, and no step folds in any one-sided difference.

        Parameters
        ----------
        velocity
            Buffer (1, 3, i, j, k), in voxels of its grid and the time of the whole way.

        Returns
        -------
        Buffer
            The flow, (1, 3, i, j, k), in voxels.
        """
        whole = self.backend.download(velocity)
        length = float(np.linalg.norm(whole, axis=1).max())
        squarings = math.ceil(math.log2(max(length / _STEP_VOX, 1)))
        flow = self.backend.upload(whole / np.float32(2**squarings))
        for _ in range(squarings):
            (flow,) = self._compose.run(step=flow, below=flow)
        return flow

    def _run_stage(
        self,
        graph: Graph,
        entry: StageEntry,
        inputs: list[Buffer],
        progress: Callable[[float], None],
    ) -> list[Buffer]:
        names = ("fixed", "moving", "hidden")[: len(inputs)]

        def run(buffers: list[Buffer]) -> list[Buffer]:
            return graph.run(**dict(zip(names, buffers, strict=True)))

        patches = lay_out(inputs[0].shape[2:], entry.patch, entry.halo, entry.parts)
        results: list[Buffer] = []
        for done, count, joined in run_in_patches(self.backend, run, inputs, patches):
            results = joined
            progress(done / count)
        graph.rest()
        return results
