"""The methods, and how what each finds becomes a field of ours.

All start from one transform a pair (`peer_runs.starts`), and see the images alone: no mask, label
or landmark. Settings are a peer's own defaults but for what `METHODS` says; those in voxels are so
at any spacing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from peer_runs.environments import REQUIREMENTS, Launcher
from rwcnet_runtime import Bundle, Mapping, Volume, read_volume
from rwcnet_runtime.evaluation import Case
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.volumes import write_displacement

Found = tuple[NDArray[np.float32], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Pair:
    """The images of a case, as read, and the transform that every method starts from."""

    fixed: Volume
    moving: Volume
    start: sitk.Transform | None
    case: Case


@dataclass(frozen=True)
class Method:
    """A way to register a pair.

    Attributes
    ----------
    run : callable
        From a pair, a launcher and `settings` to the displacement, (i, j, k, 3) float32 in RAS+ mm
        on the fixed grid, start included, and the outcome: seconds, peak memory, versions.
    about : str
        What it is, and what its time and memory are of.
    settings : dict
        Arguments for the peer's own function that are not its defaults.
    environment : str, optional
        Name of the peer's environment.
    """

    run: Callable[[Pair, Launcher, dict[str, Any]], Found]
    about: str
    settings: dict[str, Any]
    environment: str | None = None


def from_voxels(pair: Pair, displacement_vox: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a displacement found on the fixed grid, after the start, into ours.

    Parameters
    ----------
    pair : Pair
        Its moving image was resampled onto the fixed grid by its start, and then registered.
    displacement_vox : ndarray, (i, j, k, 3), float32
        Learn2Reg's convention: channel c moves along array axis c, in voxels, and
        ``warped(x) = resampled(x + d(x))``.

    Returns
    -------
    ndarray, (i, j, k, 3), float32
        RAS+ mm, from the fixed grid to points of the moving image as it is.
    """
    flow_vox = np.ascontiguousarray(np.moveaxis(displacement_vox, -1, 0))
    return Mapping(pair.fixed.grid, pair.moving.grid, pair.start, flow_vox).displacement_mm()


def from_itk(pair: Pair, after_start: sitk.Transform) -> NDArray[np.float32]:
    """Turn a transform that ITK applies before the start into a displacement of ours.

    Parameters
    ----------
    pair : Pair
        Gives the grids and the start.
    after_start : sitk.Transform
        Fixed to fixed points in LPS+ mm, such as the ``1Warp.nii.gz`` of ANTs: what was found
        after the start is what a fixed point meets first.

    Returns
    -------
    ndarray, (i, j, k, 3), float32
        RAS+ mm.
    """
    start = pair.start or sitk.Transform()
    whole = sitk.CompositeTransform([start, after_start])  # applied from the last to the first
    return Mapping(pair.fixed.grid, pair.moving.grid, whole).displacement_mm()


def _start_alone(pair: Pair, launcher: Launcher, settings: dict[str, Any]) -> Found:
    return Mapping(pair.fixed.grid, pair.moving.grid, pair.start).displacement_mm(), {}


def _rwcnet(pair: Pair, launcher: Launcher, settings: dict[str, Any]) -> Found:
    start = pair.case.initial_transform
    with tempfile.TemporaryDirectory() as folder:
        job: dict[str, Any] = {
            "fixed": str(pair.case.fixed),
            "moving": str(pair.case.moving),
            "start": None if start is None else str(start),
            "settings": settings,
            "result": f"{folder}/displacement.npy",
        }
        outcome = launcher.run(None, "run_rwcnet.py", job)
        return np.load(job["result"]), outcome


def _antspy(pair: Pair, launcher: Launcher, settings: dict[str, Any]) -> Found:
    start = pair.case.initial_transform
    with tempfile.TemporaryDirectory() as folder:
        job: dict[str, Any] = {
            "fixed": str(pair.case.fixed),
            "moving": str(pair.case.moving),
            "settings": settings
            | {"initial_transform": ["Identity" if start is None else str(start)]},
            "written": "*[0-9]Warp.nii.gz",
            "result": f"{folder}/warp.nii.gz",
        }
        outcome = launcher.run("antspy", "run_antspy.py", job)
        return from_itk(pair, read_initial_transform(Path(job["result"]))), outcome


def _convexadam(pair: Pair, launcher: Launcher, settings: dict[str, Any]) -> Found:
    # Less its minimum, an image is 0 where it is darkest: what is resampled from outside of it, 0,
    # is then as dark as its background, in CT too. MIND-SSC does not see the shift.
    fixed, moving = (volume.data - volume.data.min() for volume in (pair.fixed, pair.moving))
    start = Mapping(pair.fixed.grid, pair.moving.grid, pair.start)
    with tempfile.TemporaryDirectory() as folder:
        job: dict[str, Any] = {
            "fixed": f"{folder}/fixed.npy",
            "moving": f"{folder}/moving.npy",
            "settings": settings,
            "result": f"{folder}/displacement.npy",
        }
        np.save(job["fixed"], fixed)
        np.save(job["moving"], start.resample(moving))
        outcome = launcher.run("convexadam", "run_convexadam.py", job)
        return from_voxels(pair, np.load(job["result"])), outcome


_ON_ARRAYS = (
    "time from arrays to displacement, the moving image resampled onto the fixed grid beforehand"
)

METHODS = {
    "zero": Method(_start_alone, "the start alone, no displacement", {}),
    "rwcnet": Method(
        _rwcnet,
        "the bundle inside the package, fp32; time of preparing, network and warping, without "
        "loading, reading and assessing, which the cores' seconds include",
        {"backend": "onnxruntime", "refine": 0},
    ),
    "refined": Method(
        _rwcnet,
        "the same with the refinement that the bundle does by default",
        {"backend": "onnxruntime"},
    ),
    "syn": Method(
        _antspy,
        "ANTsPy SyNOnly, seed fixed; time of ants.registration, which writes its warps to files",
        {"type_of_transform": "SyNOnly"},
        "antspy",
    ),
    "convexadam": Method(_convexadam, f"ConvexAdam; {_ON_ARRAYS}", {}, "convexadam"),
    "convex": Method(
        _convexadam,
        f"ConvexAdam without its Adam part (lambda_weight 0); {_ON_ARRAYS}",
        {"lambda_weight": 0},
        "convexadam",
    ),
    # Its convex part then has one displacement to choose from, 0.
    "adam": Method(
        _convexadam,
        f"ConvexAdam's Adam part alone, from zero (disp_hw 0); {_ON_ARRAYS}",
        {"disp_hw": 0},
        "convexadam",
    ),
}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def register_case(name: str, case: Case, folder: Path, launcher: Launcher) -> dict[str, Any]:
    """Register a case and write ``<case>.nii.gz`` and ``<case>.json`` into `folder`.

    The field is in ITK's convention: LPS+ mm, from the fixed grid to moving points, everything
    included. The JSON holds seconds, peak memory and versions, and what the field was made from;
    if that is as it was, the field is not computed again.

    Parameters
    ----------
    name : str
        Of `METHODS`.

    Returns
    -------
    dict
        What the JSON holds.

    Raises
    ------
    RwcnetError
        If the method fails; nothing is written then.
    """
    method = METHODS[name]
    start = case.initial_transform
    made_from: dict[str, Any] = {
        "settings": method.settings,
        "requirements": list(REQUIREMENTS[method.environment]) if method.environment else [],
        "images_sha256": [_sha256(path) for path in (case.fixed, case.moving)],
        "start_sha256": _sha256(start) if start else None,
        "threads": launcher.threads,
    }
    if method.run is _rwcnet:
        made_from["bundle_sha256"] = Bundle.open().sha256
    field, report = folder / f"{case.name}.nii.gz", folder / f"{case.name}.json"
    if field.is_file() and report.is_file():
        found: dict[str, Any] = json.loads(report.read_text())
        if found["made_from"] == made_from:
            return found
        field.unlink()
        report.unlink()
    pair = Pair(
        read_volume(case.fixed),
        read_volume(case.moving),
        None if start is None else read_initial_transform(start),
        case,
    )
    displacement_mm, outcome = method.run(pair, launcher, method.settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_displacement(field, displacement_mm, pair.fixed)
    partial = report.with_name(f".{os.getpid()}-{report.name}")
    found = outcome | {"made_from": made_from}
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(report)
    return found
