"""Bring a file from one side of a registration to the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rwcnet_runtime.apply.chain import Chain, Given, read_chain
from rwcnet_runtime.apply.pictures import (
    ITK_SUFFIXES,
    NIFTI_SUFFIXES,
    check_format,
    looks_like_labels,
    read_grid,
    read_picture,
    write_picture,
)
from rwcnet_runtime.apply.point_sets import FRAMES, read_point_set
from rwcnet_runtime.apply.resampling import INTERPOLATIONS, resample
from rwcnet_runtime.apply.steps import Field
from rwcnet_runtime.apply.streamlines import move_streamlines
from rwcnet_runtime.apply.tally import Tally
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.versions import versions
from rwcnet_runtime.writing import all_or_none, check_output

SIDES = ("fixed", "moving")
IMAGES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
POINTS = (".csv", ".fcsv", ".vtk", ".gii")
STREAMLINES = (".trk", ".tck")


@dataclass(frozen=True)
class Request:
    """What shall be done; checked when it is made.

    Attributes
    ----------
    source, target : Path
        The files read and written. Points, surfaces and streamlines keep their format.
    transforms : sequence of Given
        From fixed to moving points, as `read_chain` takes them.
    origin, destination : str, optional
        The side, of `SIDES`, that `source` belongs to and the one that it shall go to. One is
        enough; images go from "moving" to "fixed" if none is given.
    reference : Path, optional
        Image whose grid an image is brought to, or that ``.trk`` belongs to then. If it is not
        given, the displacement field at that end.
    interpolation : str, optional
        Of images and label maps, one of `INTERPOLATIONS`. By default "linear" for images and
        "nearest" for label maps.
    labels : bool, optional
        Whether an image is a label map; by default its values tell.
    frame : str, optional
        Of points, one of `FRAMES`, where the file does not say it.

    Raises
    ------
    InputError
        If the parts do not fit each other.
    """

    source: Path
    target: Path
    transforms: Sequence[Given]
    origin: str | None = None
    destination: str | None = None
    reference: Path | None = None
    interpolation: str | None = None
    labels: bool | None = None
    frame: str | None = None

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--from", self.origin, SIDES),
            ("--to", self.destination, SIDES),
            ("--interpolation", self.interpolation, INTERPOLATIONS),
            ("--frame", self.frame, FRAMES),
        ):
            if value is not None and value not in known:
                raise InputError(f"{option} is {value!r}; give one of {', '.join(known)}.")
        if self.origin is not None and self.origin == self.destination:
            raise InputError("--from and --to name one image; give one as fixed, one as moving.")
        if not self.transforms:
            raise InputError("no transform is given; name one with -t.")
        if not self.source.name.endswith((*IMAGES, *POINTS, *STREAMLINES)):
            suffixes = ", ".join((*IMAGES, *POINTS, *STREAMLINES))
            raise InputError(f"{self.source} ends in none of {suffixes}; convert it.")
        if not self.is_image:
            self._check_points()
        elif self.frame:
            raise InputError("--frame is about points; images say where they lie.")

    def _check_points(self) -> None:
        if self.origin is None and self.destination is None:
            raise InputError(
                "points go the other way than images: say with --from and --to whether they are "
                "brought from the moving to the fixed image or from the fixed to the moving one."
            )
        if self.interpolation or self.labels is not None:
            raise InputError("--interpolation, --labels and --image are about images; leave them.")
        if self.reference and self.source.suffix != ".trk":
            raise InputError(f"--reference is about images and .trk, not {self.source.suffix}.")
        if self.frame and self.source.suffix in STREAMLINES:
            raise InputError(f"{self.source.suffix} says where its points are; leave --frame out.")
        if self.source.suffix != self.target.suffix:
            raise InputError(
                f"{self.target} does not end in {self.source.suffix} as the input; choose such an "
                "output name with -o."
            )

    @property
    def is_image(self) -> bool:
        """Whether voxels are brought over and not points."""
        return self.source.name.endswith(IMAGES)

    @property
    def to_fixed(self) -> bool:
        """Whether it goes from the moving to the fixed side."""
        return (
            self.origin == "moving"
            or self.destination == "fixed"
            or not (self.origin or self.destination)
        )

    @property
    def record(self) -> Path:
        """Where it is written down what was done."""
        return self.target.with_name(self.target.name + ".json")


def apply(
    request: Request,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Read a file, bring it over, write it and a record of how.

    Parameters
    ----------
    request : Request
        What shall be done.
    overwrite : bool
        Whether files that are there may be replaced.
    say : callable
        Is told what was chosen, a line each.
    progress : callable
        Is told the share of an image that is done.

    Returns
    -------
    dict
        What the record, ``<target>.json``, holds.

    Raises
    ------
    InputError
        If a file cannot be used or is in the way.
    """
    target, record = request.target, request.record
    files = [target.name, record.name]
    inputs = [request.source, *(given.path for given in request.transforms)]
    check_output(target.parent, files, *inputs, *filter(None, [request.reference]))
    for path in (target, record):
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already; choose another with -o or --overwrite it.")
    if not request.source.is_file():
        raise InputError(f"{request.source} is not a file; give the path of one.")
    chain = read_chain(request.transforms)
    # A picture is pulled: where do its new voxels come from? Points are pushed, the other way.
    if request.is_image != request.to_fixed:
        chain = chain.inverse()
    with all_or_none(target.parent, files) as folder:
        if request.is_image:
            how, tally = _image(request, chain, folder / target.name, say, progress)
        else:
            how, tally = _points(request, chain, folder / target.name, say)
        report = _report(request, how, tally)
        (folder / record.name).write_text(json.dumps(report, indent=2) + "\n")
    return report


def _image(
    request: Request,
    chain: Chain,
    path: Path,
    say: Callable[[str], None],
    progress: Callable[[float], None],
) -> tuple[dict[str, Any], Tally]:
    grid, reference = _reference(request, chain)
    picture = read_picture(request.source)
    check_format(path, grid, picture.frames.shape[3] if picture.frames.ndim == 4 else 1)
    if request.labels is None:
        labels, why = looks_like_labels(picture.frames)
    else:
        labels, why = request.labels, "as given"
    interpolation = request.interpolation or ("nearest" if labels else "linear")
    kind = "label map" if labels else "image"
    say(f"{request.source}: {kind} ({why}), interpolation {interpolation}")
    say(f"grid of {reference}: {' x '.join(map(str, grid.shape))} voxels")
    result, tally = resample(
        picture,
        chain,
        grid,
        labels=labels,
        interpolation=interpolation,
        progress=progress,
    )
    write_picture(path, result)
    how = {
        "kind": kind,
        "kind_chosen": why,
        "interpolation": interpolation,
        "reference": str(reference),
    }
    return how, tally


def _points(
    request: Request, chain: Chain, path: Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], Tally]:
    if request.source.suffix in STREAMLINES:
        how = {"kind": "streamlines", "frame": "RAS"}
        grid = None
        if request.source.suffix == ".trk":
            grid, reference = _reference(request, chain.inverse())
            how["reference"] = str(reference)
        tally = move_streamlines(request.source, path, chain, grid)
    else:
        found = read_point_set(request.source, request.frame)
        moved = chain.move(found.points)
        tally = Tally()
        tally.add(moved)
        path.write_bytes(found.content(moved.points))
        how = {"kind": "points", "frame": found.frame}
    say(f"{request.source}: {tally.points} points ({how['frame']} mm)")
    return how, tally


def _reference(request: Request, chain: Chain) -> tuple[ImageGrid, Path]:
    """Find the grid of the destination, at which `chain` starts."""
    if request.reference is not None:
        return read_grid(request.reference), request.reference
    match chain.steps[0]:
        case Field(grid=grid):
            end = 0 if request.to_fixed else -1
            return grid, request.transforms[end].path
    raise InputError(
        "the transforms do not say on which grid the result shall lie; give an image that lies on "
        "it with --reference."
    )


def _report(request: Request, how: dict[str, Any], tally: Tally) -> dict[str, Any]:
    origin, destination = ("moving", "fixed") if request.to_fixed else ("fixed", "moving")
    return {
        "input": str(request.source),
        **how,
        "from": origin,
        "to": destination,
        "transforms": [
            {"file": str(given.path), "inverted": given.inverted} for given in request.transforms
        ],
        **asdict(tally),
        "warnings": tally.warnings(),
        "versions": versions(),
    }
