"""Register two images: from files to a displacement, a warped image and a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.backends.choose import AUTO, open_cascade
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Progress
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.findings import findings
from rwcnet_runtime.formats import is_same_grid
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.preprocess import Padding, normalise
from rwcnet_runtime.refinement import Refiner
from rwcnet_runtime.refinement_choice import choose_refinement, refinement_backend
from rwcnet_runtime.registration import Registration
from rwcnet_runtime.verdict import judge
from rwcnet_runtime.versions import versions
from rwcnet_runtime.volumes import Volume, read_labels, read_volume


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
    """A pair, read: images, start, where the refinement counts, files for the report."""

    fixed: Volume
    moving: Volume
    initial: sitk.Transform | None
    counts: NDArray[np.float32]
    given: dict[str, str | None]
    clock: _Stopwatch


def _normalised(volume: Volume, fixed_range: tuple[float, float] | None) -> NDArray[np.float32]:
    try:
        return normalise(volume.data, fixed_range)
    except InputError as error:
        raise InputError(f"{volume.path}: {error}") from error


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
    engine
        Precision the network runs in, one that the bundle holds.
    backend
        What runs it, one of `rwcnet_runtime.backends.choose.NAMES`; "auto" is the fastest that
        works here.
    threads
        CPU threads; all cores of the process by default.
    refine
        Steps of refinement on the pair itself, at most; 0 is none, by default the bundle says.
    refine_features
        What it compares: "mind", "learned" or "both"; by default the bundle says.
    say
        Called with one line before something that takes long, as building an engine.

    Attributes
    ----------
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
        If there is no such backend, features, or number of threads or steps.
    BundleError
        If the bundle is missing or damaged.
    BackendError
        If the engine is not in the bundle, or cannot be run here.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        *,
        engine: str = "fp32",
        backend: str = AUTO,
        threads: int | None = None,
        refine: int | None = None,
        refine_features: str | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        start = time.perf_counter()
        self.bundle, self.engine = open_bundle(bundle), engine
        self._cascade, self.reason = open_cascade(self.bundle, engine, backend, threads)
        self.backend = self._cascade.backend
        self.backend.say = say
        self.refinement = choose_refinement(self.bundle, refine, refine_features)
        self._refiner: Refiner | None = None
        if self.refinement is not None:
            refining = refinement_backend(self.backend)
            self._refiner = Refiner(self.bundle, self.refinement, refining)
        self.seconds = time.perf_counter() - start

    def chosen(self) -> dict[str, Any]:
        """Return what a report says about what ran."""
        return {
            "engine": self.engine,
            "arithmetic": self.backend.arithmetic[self.engine],
            "backend": self.backend.name,
            "backend_chosen": self.reason,
            "device": self.backend.device,
            "threads": self.backend.threads,
            "refinement": None if self.refinement is None else asdict(self.refinement),
            "bundle": {
                "name": self.bundle.manifest.name,
                "sha256": self.bundle.sha256,
                "weights": self.bundle.manifest.weights,
            },
            "versions": versions(self.backend.programs),
        }

    def _counts(self, fixed: Volume, mask: str | Path | None) -> NDArray[np.float32]:
        """Return where the refinement compares, 0 or 1 on the fixed grid."""
        if mask is None:
            return np.ones(fixed.grid.shape, np.float32)
        if self._refiner is None:
            raise InputError(
                "--fixed-mask says where the refinement compares, and nothing is refined: give "
                "--refine, or leave it out"
            )
        found = read_labels(Path(mask))
        if not is_same_grid(found.grid, fixed.grid):
            raise InputError(
                f"{mask} does not lie on the grid of {fixed.path}: resample it by nearest neighbour"
            )
        if not found.data.any():
            raise InputError(f"{mask} is empty: give a mask with the anatomy inside")
        counts: NDArray[np.float32] = (found.data != 0).astype(np.float32)
        return counts

    def register(
        self,
        fixed: str | Path,
        moving: str | Path,
        *,
        initial_transform: str | Path | None = None,
        fixed_mask: str | Path | None = None,
        progress: Progress = lambda part, share: None,
    ) -> Registration:
        """Align a moving image with a fixed one.

        Parameters
        ----------
        fixed, moving
            Files of any orientation, spacing and origin. Where both lie in the world is believed:
            images that do not roughly overlap need an initial transform.
        initial_transform
            ITK file that maps fixed points to moving points in LPS mm (rigid, affine, a field).
        fixed_mask
            File on the fixed image's grid: the refinement compares where it is not 0. The network
            sees the whole image.
        progress
            Called with the name of a stage and the share of it that is done.

        Returns
        -------
        Registration
            Nothing is written before its `save` is called.

        Raises
        ------
        InputError
            If a file cannot be used, or the images do not overlap.
        BackendError
            If the backend fails on them.
        """
        return self._run(self._read(fixed, moving, initial_transform, fixed_mask), progress)

    def register_all(
        self,
        pairs: Iterable[dict[str, str | Path]],
        progress: Progress = lambda part, share: None,
    ) -> Iterator[Registration]:
        """Align pair after pair; the next one is read while one is computed.

        Parameters
        ----------
        pairs
            What `register` takes of files, by its names: ``{"fixed": ..., "moving": ...}``.
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
            ahead = [reader.submit(self._read, **pair) for pair in islice(waiting, 1)]
            while ahead:
                inputs = ahead.pop().result()
                ahead = [reader.submit(self._read, **pair) for pair in islice(waiting, 1)]
                yield self._run(inputs, progress)

    def _read(
        self,
        fixed: str | Path,
        moving: str | Path,
        initial_transform: str | Path | None = None,
        fixed_mask: str | Path | None = None,
    ) -> _Inputs:
        clock = _Stopwatch()
        with clock("read"):
            still = read_volume(Path(fixed))
            initial = (
                None
                if initial_transform is None
                else read_initial_transform(Path(initial_transform))
            )
            given = {"initial_transform": initial_transform, "fixed_mask": fixed_mask}
            return _Inputs(
                still,
                read_volume(Path(moving)),
                initial,
                self._counts(still, fixed_mask),
                {name: None if path is None else str(path) for name, path in given.items()},
                clock,
            )

    def _run(self, inputs: _Inputs, progress: Progress) -> Registration:
        still, other, initial = inputs.fixed, inputs.moving, inputs.initial
        clock = inputs.clock
        with clock("prepare"):
            start = Mapping(still.grid, other.grid, initial)
            if not start.inside().any():
                raise InputError(
                    f"{still.path} and {other.path} do not overlap in the world: give an initial "
                    "transform that brings them together with --initial-transform"
                )
            fixed_range = self.bundle.manifest.intensity_range
            fixed_image, moving_values = (_normalised(x, fixed_range) for x in (still, other))
            moving_image = start.resample(moving_values)
            padding = Padding.to_multiple(still.grid.shape, self.bundle.manifest.multiple)
            images = [padding.apply(image)[None, None] for image in (fixed_image, moving_image)]
        flow, seconds = self._cascade.run(images[0], images[1], progress)
        clock.seconds |= seconds
        losses: list[float] = []
        if self._refiner is not None:
            with clock("refine"):
                weight = padding.apply(inputs.counts)[None, None]
                flow, losses = self._refiner.run(flow, images[0], images[1], weight, progress)
        with clock("warp"):
            mapping = Mapping(still.grid, other.grid, initial, padding.remove(flow[0]))
            warped = mapping.resample(other.data)
            displacement = mapping.displacement_mm()
        with clock("assess"):
            after = mapping.resample(moving_values)
            found = findings(fixed_image, moving_image, after, mapping, displacement, still.grid)
        report = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "fixed": str(still.path),
            "moving": str(other.path),
            **inputs.given,
            **self.chosen(),
            "refinement_losses": [round(loss, 6) for loss in losses],
            "grid": {"shape": still.grid.shape, "spacing_mm": still.grid.spacing.tolist()},
            **found,
            "verdict": asdict(judge(found)),
            "seconds": {part: round(spent, 3) for part, spent in clock.seconds.items()},
        }
        return Registration(still, other, mapping, warped, displacement, report)


def register(
    fixed: str | Path,
    moving: str | Path,
    *,
    engine: str = "fp32",
    backend: str = AUTO,
    threads: int | None = None,
    refine: int | None = None,
    refine_features: str | None = None,
    initial_transform: str | Path | None = None,
    fixed_mask: str | Path | None = None,
    bundle: str | Path | Bundle | None = None,
    progress: Progress = lambda part, share: None,
    say: Callable[[str], None] = lambda line: None,
) -> Registration:
    """Align one pair: `Registrar` and its `register` in one, with their parameters and errors."""
    registrar = Registrar(
        bundle,
        engine=engine,
        backend=backend,
        threads=threads,
        refine=refine,
        refine_features=refine_features,
        say=say,
    )
    found = registrar.register(
        fixed,
        moving,
        initial_transform=initial_transform,
        fixed_mask=fixed_mask,
        progress=progress,
    )
    found.report["seconds"] = {"load": round(registrar.seconds, 3)} | found.report["seconds"]
    return found
