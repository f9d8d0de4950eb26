"""Find and read the displacement fields that another program left in a folder."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.cases import Case
from rwcnet_runtime.formats import load_nifti, voxels_of
from rwcnet_runtime.transforms.relative import voxel_from_world, world_from_relative
from rwcnet_runtime.volumes import Volume, read_displacement

CONVENTIONS = ("itk", "learn2reg")

_LEARN2REG_NAME = re.compile(r"(\d{4})_(\d{4})\.nii\.gz$")
# What numpy raises for a file that is no .npz, is damaged, or holds objects or several arrays.
_UNREADABLE = (OSError, ValueError, EOFError, TypeError, BadZipFile, zlib.error)
_COSTS = ("seconds", "cpu_seconds", "peak_memory_mb")


def find_field(case: Case, folder: Path, convention: str) -> Path:
    """Find the displacement field of a case.

    Parameters
    ----------
    case : Case
        Its field is ``<case>.nii.gz``; in Learn2Reg's convention also ``.npz``, and before these
        ``disp_<fix>_<mov>`` and ``disp_<fix>_<modality>_<mov>_<modality>``, from the last four or
        eight digits of the image names.
    folder : Path
        Where to look.
    convention : str
        One of `CONVENTIONS`.

    Raises
    ------
    InputError
        If there is none.
    """
    names, suffixes = [case.name], [".nii.gz"]
    if convention == "learn2reg":
        suffixes.append(".npz")
        ids = [_LEARN2REG_NAME.search(path.name) for path in (case.fixed, case.moving)]
        match ids:
            case [re.Match() as fixed, re.Match() as moving]:
                names = [
                    f"disp_{fixed[1]}_{moving[1]}",
                    f"disp_{fixed[1]}_{fixed[2]}_{moving[1]}_{moving[2]}",
                    *names,
                ]
    candidates = [folder / (name + suffix) for name in names for suffix in suffixes]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(
        f"{folder} holds no displacement field of {case.name}; wanted "
        f"{' or '.join(path.name for path in candidates)}."
    )


def read_field(path: Path, convention: str, fixed: Volume, moving: Volume) -> NDArray[np.float32]:
    """Read a displacement field as (i, j, k, 3) float32, RAS+ mm, on ``fixed.grid``.

    Parameters
    ----------
    path : Path
        The file.
    convention : str
        "itk": as `read_displacement` reads it. "learn2reg": (i, j, k, 3) in the axis order of the
        fixed image's file; a voxel of it plus the displacement is the index of a voxel of the
        moving file, whatever the headers say.
    fixed, moving : Volume
        The images.

    Raises
    ------
    InputError
        If the file is no such field or does not fit the fixed image.
    """
    if convention == "itk":
        return read_displacement(path, fixed)
    if path.suffix == ".npz":
        try:
            with path.open("rb") as file, np.load(file) as archive:
                [name] = archive.files
                step_vox = archive[name]
        except _UNREADABLE as error:
            raise InputError(f"{path} cannot be read as a .npz of one array ({error}).") from error
    else:
        step_vox = voxels_of(path, load_nifti(path))
    stored = fixed.stored_grid
    if step_vox.shape != (*stored.shape, 3) or step_vox.dtype.kind not in "iuf":
        raise InputError(
            f"{path} holds {step_vox.dtype} of shape {step_vox.shape} where voxel displacements of "
            f"shape {(*stored.shape, 3)} are needed, on the fixed image's grid."
        )
    if not np.isfinite(step_vox).all():
        raise InputError(f"{path} holds NaN or infinite displacements; compute it again.")
    return world_from_relative(step_vox, fixed, moving, voxel_from_world)


def read_costs(path: Path) -> dict[str, float]:
    """Read ``seconds``, ``cpu_seconds`` and ``peak_memory_mb`` from a JSON file, as far as given.

    Raises
    ------
    InputError
        If it is no JSON object of numbers under these names.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(found[name]) for name in _COSTS if found.get(name) is not None}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no JSON object with numbers for {', '.join(_COSTS)}."
        ) from error
