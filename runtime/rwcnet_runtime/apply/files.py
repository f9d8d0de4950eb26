"""Bring a file from one side of a registration to the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rwcnet_runtime.apply.chain import Chain, read_chain
from rwcnet_runtime.apply.pictures import (
    check_format,
    looks_like_labels,
    read_grid,
    read_picture,
    write_picture,
)
from rwcnet_runtime.apply.point_sets import read_point_set
from rwcnet_runtime.apply.request import STREAMLINES, Request
from rwcnet_runtime.apply.resampling import resample
from rwcnet_runtime.apply.steps import Field
from rwcnet_runtime.apply.streamlines import move_streamlines
from rwcnet_runtime.apply.tally import Tally
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.versions import versions
from rwcnet_runtime.writing import all_or_none, check_output


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
    inputs = [request.source, *(given.file for given in request.transforms)]
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
            {"file": str(given.file), "inverted": given.inverted} for given in request.transforms
        ],
        **asdict(tally),
        "warnings": tally.warnings(),
        "versions": versions(),
    }
