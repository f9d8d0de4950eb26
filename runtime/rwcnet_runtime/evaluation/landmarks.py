"""Landmark files of four formats, brought to RAS+ mm and matched."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid

FRAMES = ("RAS", "LPS", "voxel")

FCSV_FRAMES = {"0": "RAS", "RAS": "RAS", "1": "LPS", "LPS": "LPS"}
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of one image.

    Attributes
    ----------
    points : ndarray, (n, 3), float64
        RAS+ mm.
    labels : tuple of str, optional
        One for each point, if the file has them.
    """

    points: NDArray[np.float64]
    labels: tuple[str, ...] | None


@dataclass(frozen=True, eq=False)
class _Table:
    """What a file says: points, their frame ("" if it does not say it), labels."""

    points: list[list[str]]
    frame: str = ""
    labels: tuple[str, ...] | None = None


def states_its_frame(path: Path) -> bool:
    """Whether the format of a landmark file says in which frame its points are."""
    return path.suffix in (".fcsv", ".txt")


def read_landmarks(path: Path, frame: str | None, grid: ImageGrid) -> Landmarks:
    """Read landmarks from a file.

    Parameters
    ----------
    path : Path
        Slicer ``.fcsv``; ``.txt`` of elastix (``point`` or ``index``, count, rows); legacy ASCII
        ``.vtk``, of which the POINTS are read; ``.csv``, with a header that names x, y, z and
        perhaps label, or without one, as Learn2Reg's keypoints are.
    frame : str, optional
        One of `FRAMES`. Must be given for ``.vtk`` and ``.csv``. Where the file says it (``.fcsv``
        in its header; ``point`` of elastix is LPS mm, as everywhere in ITK, ``index`` is voxels),
        it may be left out and must not differ.
    grid : ImageGrid
        The image the points belong to, in the axis order of its file: "voxel" counts there.

    Raises
    ------
    InputError
        If the file cannot be read, or the frame is missing or another than the file says.
    """
    readers = {".fcsv": _read_fcsv, ".txt": _read_elastix, ".vtk": _read_vtk, ".csv": _read_csv}
    if path.suffix not in readers:
        raise InputError(f"{path} ends in none of {', '.join(readers)}; convert the landmarks.")
    try:
        table = readers[path.suffix](path, path.read_text(encoding="utf-8-sig"))
        points = np.array([[float(x) for x in row] for row in table.points])
    except (OSError, ValueError, LookupError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as landmarks ({error}).") from error
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"{path} holds no list of finite points of three coordinates.")
    if table.labels is not None and len(set(table.labels)) < len(table.labels):
        raise InputError(f"{path} holds a label twice; landmarks are matched by label.")
    if frame and table.frame and frame != table.frame:
        raise InputError(
            f"{path} says that its points are {table.frame}, the cases file says {frame}; "
            "correct one of them."
        )
    match table.frame or frame:
        case "RAS":
            return Landmarks(points, table.labels)
        case "LPS":
            return Landmarks(points * LPS_FROM_RAS.diagonal()[:3], table.labels)
        case "voxel":
            return Landmarks(grid.world_from_voxel(points), table.labels)
    raise InputError(f"{path} does not say the frame of its points; give points_frame.")


def paired(
    fixed: Landmarks, moving: Landmarks, left_out: tuple[str, ...] = ()
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Match landmarks: by label if both sides have them, else by row.

    Parameters
    ----------
    fixed, moving : Landmarks
        Of the two images.
    left_out : tuple of str
        Labels to leave out; a row without label has its number, counted from 1.

    Returns
    -------
    fixed_points, moving_points : ndarray, (n, 3), float64
        RAS+ mm, row by row the same anatomy.
    labels : list of str
        Of the rows.

    Raises
    ------
    InputError
        If nothing matches, or the number of rows differs where rows are matched.
    """
    if fixed.labels is not None and moving.labels is not None:
        labels = [label for label in fixed.labels if label in moving.labels]
        one = [fixed.labels.index(label) for label in labels]
        other = [moving.labels.index(label) for label in labels]
    elif len(fixed.points) != len(moving.points):
        raise InputError(
            f"{len(fixed.points)} fixed and {len(moving.points)} moving landmarks cannot be "
            "matched by row; give files of the same number of points, or with labels."
        )
    else:
        one = other = list(range(len(fixed.points)))
        labels = list(fixed.labels or moving.labels or (str(row + 1) for row in one))
    kept = [n for n, label in enumerate(labels) if label not in left_out]
    if not kept:
        raise InputError("No fixed landmark has a moving one; check their labels.")
    return (
        fixed.points[[one[n] for n in kept]],
        moving.points[[other[n] for n in kept]],
        [labels[n] for n in kept],
    )


def _read_fcsv(path: Path, text: str) -> _Table:
    frame, columns = "", FCSV_COLUMNS.split(",")
    rows = []
    for line in text.splitlines():
        key, _, value = line.lstrip("# ").partition("=")
        if not line.startswith("#"):
            rows.append(line)
        elif key.strip() == "CoordinateSystem":
            frame = FCSV_FRAMES.get(value.strip(), "")
            if not frame:
                raise InputError(
                    f"{path} has points in the coordinate system {value.strip()}; save them in "
                    "RAS or LPS."
                )
        elif key.strip() == "columns":
            columns = [name.strip() for name in value.split(",")]
    found = [dict(zip(columns, row, strict=False)) for row in csv.reader(rows) if row]
    if any(not {"x", "y", "z", "label"} <= row.keys() for row in found):
        raise InputError(f"{path} has a row without x, y, z or label; save it from Slicer anew.")
    return _Table(
        [[row["x"], row["y"], row["z"]] for row in found],
        frame,
        tuple(row["label"] for row in found),
    )


def _read_elastix(path: Path, text: str) -> _Table:
    kind, count, *numbers = text.split() or ["", ""]
    if kind not in ("point", "index"):
        raise InputError(
            f"{path} starts with {kind!r} where an elastix point file says point or index."
        )
    if len(numbers) != 3 * int(count):
        raise InputError(f"{path} announces {count} points and holds {len(numbers)} numbers.")
    return _Table(_triples(numbers), "LPS" if kind == "point" else "voxel")


def _read_vtk(path: Path, text: str) -> _Table:
    words = text.split()
    if "ASCII" not in words or "POINTS" not in words:
        raise InputError(f"{path} is no legacy ASCII VTK file with POINTS; save it as one.")
    start = words.index("POINTS") + 3  # POINTS n type
    numbers = words[start : start + 3 * int(words[start - 2])]
    if len(numbers) != 3 * int(words[start - 2]):
        raise InputError(f"{path} announces {words[start - 2]} points and ends before them.")
    return _Table(_triples(numbers))


def _read_csv(path: Path, text: str) -> _Table:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    header = [cell.lower() for cell in rows[0]] if rows else []
    if not {"x", "y", "z"} <= set(header):
        return _Table(rows)
    found = [dict(zip(header, row, strict=True)) for row in rows[1:]]
    labels = tuple(row["label"] for row in found) if "label" in header else None
    return _Table([[row["x"], row["y"], row["z"]] for row in found], labels=labels)


def _triples(numbers: list[str]) -> list[list[str]]:
    return [numbers[n : n + 3] for n in range(0, len(numbers), 3)]
