"""Instance optimisation: improve a flow on the pair itself, by Adam on a grid of half the size.

`refine.onnx` is one step; here is the loop. The loss, and what its names mean, is in
`rwcnet_ref.refine`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.backends.interface import Array, Backend, Graph
from rwcnet_runtime.bundle import REFINEMENT_FEATURES, Bundle, RefinementEntry
from rwcnet_runtime.cascade import Progress, downsample, reduction
from rwcnet_runtime.errors import BundleError

_MIND, _LEARNED, _BOTH = REFINEMENT_FEATURES
# The loss is flat when its best of so many steps is hardly better than its best before these.
_PATIENCE = 10
_FLAT = 1e-3


class Refiner:
    """The graphs of the refinement, opened on a backend and ready for any number of pairs.

    Parameters
    ----------
    bundle
        Where the graphs are.
    settings
        What is compared, how often, how hard.
    backend
        What runs them. Features, flow and averages stay where it computes.

    Raises
    ------
    BundleError
        If the bundle lacks a graph, or the backend refuses one.
    """

    def __init__(self, bundle: Bundle, settings: RefinementEntry, backend: Backend) -> None:
        self.settings = settings
        self._backend = backend
        self._step = backend.open(bundle, "refine.onnx", "fp32")
        self._mind = self._learned = None
        if settings.features in (_MIND, _BOTH):
            self._mind = backend.open(bundle, "mind.onnx", "fp32")
        if settings.features in (_LEARNED, _BOTH):
            stage = _on_half_grid(bundle)
            self._resolution = bundle.manifest.stages[stage].resolution
            self._reduce = reduction(bundle.manifest)
            self._learned = backend.open(bundle, f"features{stage + 1}.onnx", "fp32")

    def run(
        self,
        flow: Array,
        fixed: Array,
        moving: Array,
        weight: Array,
        progress: Progress = lambda part, share: None,
    ) -> tuple[Array, list[float]]:
        """Refine the flow of one pair.

        Parameters
        ----------
        flow
            (1, 3, i, j, k) in voxels, what is there already; axes are multiples of the bundle's.
        fixed, moving
            (1, 1, i, j, k) within 0..1, on the grid of the flow; `moving` is not warped by it.
        weight
            (1, 1, i, j, k) within 0..1, how much a fixed voxel counts.
        progress
            Called with the loss in words and the share of the steps that is done.

        Returns
        -------
        flow
            (1, 3, i, j, k) float32, in voxels.
        losses
            Before each step that was taken: fewer than the settings say where it became flat.

        Raises
        ------
        BackendError
            If the backend fails on them.
        """
        backend, settings = self._backend, self.settings
        start = downsample(flow, 2) * np.float32(0.5)  # voxels of the smaller grid
        given: dict[str, Array] = {
            "start": start,
            "fixed": self._describe(fixed),
            "moving": self._describe(moving),
            "weight": downsample(weight, 2),
            "regularisation": np.array([settings.regularisation], np.float32),
            "rate": np.array([settings.rate], np.float32),
        }
        inputs = {name: backend.upload(array) for name, array in given.items()}
        change, mean, square = (backend.upload(np.zeros_like(start)) for _ in range(3))
        losses: list[float] = []
        for n in range(1, settings.steps + 1):
            change, mean, square, loss = self._step.run(
                change=change,
                mean=mean,
                square=square,
                step=backend.upload(np.array([n], np.float32)),
                **inputs,
            )
            losses.append(float(backend.download(loss)[0]))
            progress(f"refinement, loss {losses[-1]:.4f}", n / settings.steps)
            if _is_flat(losses):
                break
        return flow + lift(backend.download(change)), losses

    def _describe(self, image: Array) -> Array:
        """Return the features of an image, (1, i/2, j/2, k/2, c), so that squares of them add up.

        Of MIND-SSC all 12 channels add up; learned ones, of variance 1, are averaged.
        """
        found = []
        if self._mind is not None:
            found.append(self._features(self._mind, image))
        if self._learned is not None:
            learned = self._features(self._learned, self._reduce(image, self._resolution))
            found.append(learned / np.sqrt(np.float32(learned.shape[1])))
        return np.ascontiguousarray(np.concatenate(found, axis=1).transpose(0, 2, 3, 4, 1))

    def _features(self, graph: Graph, image: Array) -> Array:
        (features,) = graph.run(image=self._backend.upload(image))
        return self._backend.download(features)


def lift(change: Array) -> Array:
    """Smooth what the steps have found and bring it to the image's grid.

    Parameters
    ----------
    change
        (1, 3, i, j, k), as `refine.onnx` returns it.

    Returns
    -------
    ndarray, (1, 3, 2i, 2j, 2k), float32
        What is to be added to the flow, in voxels of the image's grid.
    """
    _, c, i, j, k = change.shape
    along_i = _lifting(i) @ change.reshape(c, i, j * k)
    lifted: Array = _lifting(j) @ along_i.reshape(c, 2 * i, j, k) @ _lifting(k).T
    return 2 * lifted[None]


def _lifting(length: int) -> NDArray[np.float32]:
    """Return the matrix (2 length, length) that does that to one axis.

    Three zero-padded means over three neighbours, then linear interpolation with half-pixel
    centres and borders repeated.
    """
    here = np.arange(length)
    mean = (abs(here - here[:, None]) <= 1) / 3
    near = np.repeat(here, 2)
    far = np.clip(near + np.tile((-1, 1), length), 0, length - 1)
    identity = np.eye(length)
    doubled = 0.75 * identity[near] + 0.25 * identity[far]
    matrix: NDArray[np.float32] = (doubled @ mean @ mean @ mean).astype(np.float32)
    return matrix


def _is_flat(losses: list[float]) -> bool:
    before, lately = losses[:-_PATIENCE], losses[-_PATIENCE:]
    return bool(before) and min(before) - min(lately) <= _FLAT * min(before)


def _on_half_grid(bundle: Bundle) -> int:
    """Return the stage whose features lie on the grid of the steps."""
    for n, entry in enumerate(bundle.manifest.stages):
        if entry.resolution * entry.stride == 2:
            return n
    raise BundleError(
        f"no stage of the bundle in {bundle.folder} has features on a grid of half the image's "
        f"size: refine with {_MIND} features"
    )
