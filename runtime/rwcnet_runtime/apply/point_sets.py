"""Points and surfaces in files: read their coordinates, and write the file with others.

Everything but the coordinates stays as it was: columns, labels, faces, values at the vertices.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.apply.surfaces import read_gifti, read_vtk
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.landmarks import FCSV_COLUMNS, FCSV_FRAMES
from rwcnet_runtime.geometry import LPS_FROM_RAS

FRAMES = ("RAS", "LPS")

_LPS = LPS_FROM_RAS.diagonal()[:3]

# From points in the frame of the file to the content of the file.
Render = Callable[[NDArray[np.float64]], bytes]


@dataclass(frozen=True, eq=False)
class PointSet:
    """The points of a file.

    Attributes
    ----------
    points : ndarray, (n, 3), float64
        RAS+ mm.
    frame : str
        That of the file, one of `FRAMES`.
    render : callable
        Gives the content of the file with other points, in its frame.
    path : Path
        The file.
    """

    points: NDArray[np.float64]
    frame: str
    render: Render
    path: Path

    def content(self, points: NDArray[np.float64]) -> bytes:
        """Return the file with other points, (n, 3) RAS+ mm."""
        return self.render(points * _LPS if self.frame == "LPS" else points)


def read_point_set(path: Path, frame: str | None) -> PointSet:
    """Read the points of a file.

    Parameters
    ----------
    path : Path
        ``.csv`` with a header that names x, y, z; Slicer ``.fcsv``; legacy ``.vtk`` with POINTS;
        GIFTI ``.gii`` with a point set.
    frame : str, optional
        One of `FRAMES`; needed where the file does not say it, and must not differ where it does.

    Raises
    ------
    InputError
        If the file cannot be read, or the frame is missing, unknown or another than the file says.
    """
    readers = {".csv": _read_csv, ".fcsv": _read_fcsv, ".vtk": read_vtk, ".gii": read_gifti}
    if path.suffix not in readers:
        raise InputError(f"{path} ends in none of {', '.join(readers)}; convert the points.")
    if frame is not None and frame not in FRAMES:
        raise InputError(f"the frame of points is {frame!r}; give one of {', '.join(FRAMES)}.")
    try:
        coordinates, stated, render = readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8; save it as that.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    points = np.asarray(coordinates, np.float64).reshape(-1, 3)
    if not len(points) or not np.isfinite(points).all():
        raise InputError(f"{path} holds no points, or some that are not finite; correct it.")
    if stated and frame and stated != frame:
        raise InputError(
            f"{path} says that its points are {stated}, --frame says {frame}; leave --frame out."
        )
    settled = stated or frame
    if not settled and path.suffix == ".gii":
        raise InputError(
            f"{path} is in FreeSurfer's own frame, which is shifted against the world; convert it "
            "with mris_convert --to-scanner, or give --frame RAS if that was done."
        )
    if not settled:
        raise InputError(
            f"{path} does not say the frame of its points; give --frame RAS or --frame LPS (points "
            "for ITK and ANTs are LPS, those that nibabel and most viewers show are RAS)."
        )
    return PointSet(points * _LPS if settled == "LPS" else points, settled, render, path)


def _read_csv(path: Path) -> tuple[NDArray[np.float64], str, Render]:
    header, *rows = _rows(path, path.read_text(encoding="utf-8-sig")) or [[]]
    names = [name.strip().lower() for name in header]
    points, render = _columns(path, names, rows, [header])
    return points, "", render


def _read_fcsv(path: Path) -> tuple[NDArray[np.float64], str, Render]:
    frame, names = "", FCSV_COLUMNS.split(",")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    for line in comments:
        key, _, value = line.lstrip("# ").partition("=")
        if key.strip() == "columns":
            names = [name.strip() for name in value.split(",")]
        elif key.strip() == "CoordinateSystem":
            frame = FCSV_FRAMES.get(value.strip(), "")
            if not frame:
                raise InputError(
                    f"{path} has points in the coordinate system {value.strip()}; save them in "
                    "RAS or LPS."
                )
    rows = _rows(path, "\n".join(line for line in lines if not line.startswith("#")))
    points, render = _columns(path, names, rows, [])
    start = "".join(f"{line}\n" for line in comments).encode()
    return points, frame, lambda moved: start + render(moved)


def _rows(path: Path, text: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table ({error}).") from error


def _columns(
    path: Path, names: list[str], rows: list[list[str]], first: list[list[str]]
) -> tuple[NDArray[np.float64], Render]:
    """Find x, y and z in a table; `first` are the rows written before the others."""
    if not {"x", "y", "z"} <= set(names):
        raise InputError(f"{path} has no columns x, y and z; name them in its first row.")
    places = [names.index(name) for name in "xyz"]
    try:
        points = np.array([[float(row[place]) for place in places] for row in rows])
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} has a row without numbers for x, y and z; correct it.") from error

    def render(moved: NDArray[np.float64]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(first)
        for row, point in zip(rows, moved, strict=True):
            cells = list(row)
            for place, value in zip(places, point, strict=True):
                cells[place] = f"{round(value, 6) + 0.0:.6f}"  # no minus before zero
            writer.writerow(cells)
        return text.getvalue().encode()

    return points, render
