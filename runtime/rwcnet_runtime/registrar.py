"""Register two images: from files to a displacement, a warped image and a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.alignment import Alignment, align
from rwcnet_runtime.backends.choose import open_cascade
from rwcnet_runtime.backends.onnxruntime_cpu import empty_pool
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Progress
from rwcnet_runtime.diffeomorphism import without_folds
from rwcnet_runtime.errors import BackendError, InputError
from rwcnet_runtime.findings import findings
from rwcnet_runtime.formats import is_same_grid
from rwcnet_runtime.images import ImageLike, as_labels, as_volume, source_of
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.metrics import correlation
from rwcnet_runtime.preparation import prepare
from rwcnet_runtime.refinement import Refiner
from rwcnet_runtime.refinement_choice import choose_refinement, refinement_backend
from rwcnet_runtime.registration import Registration
from rwcnet_runtime.settings import Pair, Settings
from rwcnet_runtime.verdict import NOT_JUDGED, judge
from rwcnet_runtime.versions import versions
from rwcnet_runtime.volumes import Volume


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class _Inputs:
    """A pair, read: images, start, where the refinement counts."""

    given: Pair
    fixed: Volume
    moving: Volume
    start: Alignment
    fixed_counts: NDArray[np.float32]
    moving_counts: NDArray[np.float32] | None
    clock: _Stopwatch

    def weight(self) -> NDArray[np.float32]:
        """Return how much a fixed voxel counts in the refinement, (i, j, k) within 0..1.

        Raises
        ------
        InputError
            If the masks have no voxel in common.
        """
        if self.moving_counts is None:
            return self.fixed_counts
        start = Mapping(self.fixed.grid, self.moving.grid, self.start.transform)
        weight = self.fixed_counts * start.resample(self.moving_counts)
        if not weight.any():
            raise InputError(
                "the masks do not overlap in the world: give --initial-transform, or leave one out"
            )
        return weight


# What `register` takes beside the images.
PAIR_OPTIONS = {field.name for field in fields(Pair)} - {"fixed", "moving"}


def open_bundle(bundle: str | Path | Bundle | None) -> Bundle:
    """Open a bundle that is not open yet: a folder, or None for the one inside the package.

    Raises
    ------
    BundleError
        If it is missing or damaged.
    """
    if isinstance(bundle, Bundle):
        return bundle
    return Bundle.open(None if bundle is None else Path(bundle))


class Registrar:
    """A bundle opened on a backend, ready for any number of pairs.

    Parameters
    ----------
    bundle
        Folder of a bundle, or an opened one; the one inside the package by default.
    say
        Called with one line before something that takes long, as building an engine.
    **settings
        The attributes of `Settings`: ``refine=0``, ``backend="openvino"``.

    Attributes
    ----------
    settings : Settings
        What is set.
    backend : Backend
        What was taken.
    reason : str
        Why.
    refinement : RefinementEntry, optional
        How flows are refined; none is not at all.
    seconds : float
        What opening took.

    Raises
    ------
    InputError
        If there is no such backend, features, anatomy, or number of threads or steps.
    BundleError
        If the bundle is missing or damaged.
    BackendError
        If the engine is not in the bundle, or cannot be run here.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        *,
        say: Callable[[str], None] = lambda line: None,
        **settings: Any,
    ) -> None:
        start = time.perf_counter()
        self.bundle, self.settings = open_bundle(bundle), Settings(**settings)
        asked = self.settings
        self._cascade, self.reason = open_cascade(
            self.bundle, asked.engine, asked.backend, asked.threads
        )
        self.backend = self._cascade.backend
        self.backend.say = say
        if asked.deterministic and self.backend.on_gpu:
            raise BackendError(
                f"{self.backend.name} does not promise the same bits twice, which --deterministic "
                "asks for: give --backend onnxruntime or openvino, or leave it out"
            )
        self.refinement = choose_refinement(self.bundle, asked.refine, asked.refine_features)
        self._refiner: Refiner | None = None
        if self.refinement is not None:
            refining = refinement_backend(self.backend)
            self._refiner = Refiner(self.bundle, self.refinement, refining)
        self.seconds = time.perf_counter() - start

    def chosen(self) -> dict[str, Any]:
        """Return what a report says about what ran."""
        engine = self.settings.engine
        return {
            "engine": engine,
            "arithmetic": self.backend.arithmetic[engine],
            "backend": self.backend.name,
            "backend_chosen": self.reason,
            "device": self.backend.device,
            "threads": self.backend.threads,
            "anatomy": self.settings.anatomy,
            "refinement": None if self.refinement is None else asdict(self.refinement),
            "bundle": {
                "name": self.bundle.manifest.name,
                "sha256": self.bundle.sha256,
                "weights": self.bundle.manifest.weights,
            },
            "versions": versions(self.backend.programs),
        }

    def plan(self, fixed: ImageLike, moving: ImageLike, **given: Any) -> dict[str, Any]:
        """Read a pair and return what `register` would report that is known before the work.

        Takes and raises what `register` does.
        """
        return self._about(self._read(Pair(fixed, moving, **given)))

    def register(
        self,
        fixed: ImageLike,
        moving: ImageLike,
        *,
        progress: Progress = lambda part, share: None,
        **given: Any,
    ) -> Registration:
        """Align a moving image with a fixed one.

        Parameters
        ----------
        fixed, moving
            Paths, images of nibabel or SimpleITK, or arrays with affines, see `ImageLike`.
        progress
            Called with the name of a stage and the share of it that is done.
        **given
            The other attributes of `Pair`: ``initial_transform="start.tfm"``.

        Returns
        -------
        Registration
            Nothing is written before its `save` is called.

        Raises
        ------
        InputError
            If an image or file cannot be used, or the images do not overlap.
        BackendError
            If the backend fails on them.
        """
        return self._run(self._read(Pair(fixed, moving, **given)), progress)

    def register_all(
        self,
        pairs: Iterable[dict[str, Any]],
        progress: Progress = lambda part, share: None,
    ) -> Iterator[Registration]:
        """Align pair after pair; the next one is read while one is computed.

        Parameters
        ----------
        pairs
            The attributes of `Pair` by name: ``{"fixed": ..., "moving": ...}``.
        progress
            As of `register`, for each pair.

        Yields
        ------
        Registration
            In the order of the pairs.

        Raises
        ------
        InputError, BackendError
            As `register`, at the pair that is to blame.
        """
        waiting = iter(pairs)
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(self._read, Pair(**pair)) for pair in islice(waiting, 1)]
            while ahead:
                inputs = ahead.pop().result()
                ahead = [reader.submit(self._read, Pair(**pair)) for pair in islice(waiting, 1)]
                yield self._run(inputs, progress)

    def _read(self, given: Pair) -> _Inputs:
        clock = _Stopwatch()
        with clock("read"):
            fixed = as_volume(given.fixed, "fixed")
            moving = as_volume(given.moving, "moving")
            still, other = (
                self._counts(name, mask, volume)
                for name, mask, volume in (
                    ("mask", given.fixed_mask, fixed),
                    ("moving-mask", given.moving_mask, moving),
                )
            )
            everywhere = np.broadcast_to(np.float32(1), fixed.grid.shape)  # takes no memory
            counts = everywhere if still is None else still
        with clock("align"):
            start = self._start(given, fixed, moving)
        return _Inputs(given, fixed, moving, start, counts, other, clock)

    def _start(self, given: Pair, fixed: Volume, moving: Volume) -> Alignment:
        """Return the linear transform that the network starts from."""
        if given.initial_transform is None:
            return align(fixed, moving, self.settings.init)
        path = Path(given.initial_transform)
        return Alignment(read_initial_transform(path), "given", f"it is in {path}", {})

    def _counts(
        self, name: str, mask: ImageLike | None, volume: Volume
    ) -> NDArray[np.float32] | None:
        """Return where the refinement compares, 0 or 1 on the grid of an image."""
        if mask is None:
            return None
        if self._refiner is None:
            raise InputError(
                f"--{name} says where the refinement compares, and nothing is refined: give "
                "--refine, or leave it out"
            )
        found = as_labels(mask, name)
        if not is_same_grid(found.grid, volume.grid):
            raise InputError(
                f"{found.path} does not lie on the grid of {volume.path}: resample it by nearest "
                "neighbour"
            )
        if not found.data.any():
            raise InputError(f"{found.path} is empty: give a mask with the anatomy inside")
        counts: NDArray[np.float32] = (found.data != 0).astype(np.float32)
        return counts

    def _about(self, inputs: _Inputs) -> dict[str, Any]:
        """Return what a report says before the work."""
        grid = inputs.fixed.grid
        sources = ("fixed", "moving", "initial_transform", "fixed_mask", "moving_mask")
        return {
            **{name: source_of(getattr(inputs.given, name)) for name in sources},
            **self.chosen(),
            "alignment": {
                "method": inputs.start.method,
                "reason": inputs.start.reason,
                **inputs.start.numbers,
            },
            "grid": {"shape": grid.shape, "spacing_mm": grid.spacing.tolist()},
        }

    def _run(self, inputs: _Inputs, progress: Progress) -> Registration:
        still, other, clock = inputs.fixed, inputs.moving, inputs.clock
        with clock("prepare"):
            counts = inputs.weight()  # what is wrong with masks is said before the work
            pair = prepare(
                still,
                other,
                inputs.start.transform,
                self.bundle.manifest,
                self.backend.bytes_per_voxel,
                self.settings.spacing,
            )
            images = [pair.for_network(image) for image in (pair.fixed, pair.moving)]
        smooth = self.settings.diffeomorphic
        flow, seconds = self._cascade.run(images[0], images[1], progress, integrated=smooth)
        clock.seconds |= seconds
        losses: list[float] = []
        if self._refiner is not None:
            with clock("refine"):
                weight = pair.for_network(pair.working.average(counts))
                flow, losses = self._refiner.run(flow, images[0], images[1], weight, progress)
        if max(pair.working.factors) > 1:  # the results are larger than what the network saw
            empty_pool(self.bundle)
        flow_vox = pair.from_network(flow)
        with clock("warp"):
            found_first = pair.mapping(other.grid, flow_vox)
            mapping, removal = without_folds(found_first) if smooth else (found_first, None)
            warped = mapping.resample(other.data)
            displacement = mapping.displacement_mm()
        fixed_range = self.bundle.manifest.intensity_range
        with clock("assess"):
            seen = pair.working_mapping(flow_vox)
            after = seen.resample(pair.moving_values)
            folds: dict[str, Any] = {}
            if removal is not None:
                with_folds, after = (
                    after,
                    pair.on_working_grid(mapping).resample(pair.moving_values),
                )
                folds["folds_removed"] = asdict(removal) | {
                    "correlation": {
                        "before": correlation(pair.fixed, with_folds),
                        "after": correlation(pair.fixed, after),
                    }
                }
            found = findings(pair.fixed, pair.moving, after, seen, displacement, still.grid)
        report = {
            **self._about(inputs),
            "refinement_losses": [round(loss, 6) for loss in losses],
            "working_grid": pair.working.describe(),
            **folds,
            **found,
            "verdict": asdict(judge(found) if fixed_range is None else NOT_JUDGED),
        }
        if not self.settings.deterministic:
            report["date"] = datetime.now(UTC).isoformat(timespec="seconds")
            report["seconds"] = {part: round(spent, 3) for part, spent in clock.seconds.items()}
        return Registration(
            still,
            other,
            mapping,
            warped,
            displacement,
            report,
            inputs.given.fixed,
            inputs.start.transform,
        )


def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    bundle: str | Path | Bundle | None = None,
    progress: Progress = lambda part, share: None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Registration:
    """Align one pair: `Registrar` and its `register` in one, with their parameters and errors.

    Parameters
    ----------
    **options
        Attributes of `Settings` and of `Pair`.
    """
    given = {name: options.pop(name) for name in PAIR_OPTIONS if name in options}
    registrar = Registrar(bundle, say=say, **options)
    found = registrar.register(fixed, moving, progress=progress, **given)
    if "seconds" in found.report:
        found.report["seconds"] = {"load": round(registrar.seconds, 3)} | found.report["seconds"]
    return found
