"""Vertices of surfaces: legacy VTK files and GIFTI."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from xml.parsers.expat import ExpatError

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError

Render = Callable[[NDArray[np.float64]], bytes]

_VTK_POINTS = re.compile(rb"^POINTS[ \t]+(\d+)[ \t]+(float|double)[ \t]*\r?\n", re.MULTILINE)
_SLICER_FRAME = re.compile(rb"SPACE=(RAS|LPS)")
_FREESURFER_CENTRE = ("VolGeomC_R", "VolGeomC_A", "VolGeomC_S")


def read_vtk(path: Path) -> tuple[NDArray[np.float64], str, Render]:
    """Read the POINTS of a legacy VTK file, ASCII or binary, of any kind of data set.

    Returns
    -------
    points : ndarray, (n, 3)
    frame : str
        What 3D Slicer wrote into the title, "RAS" or "LPS"; else "".
    render : callable
        Gives the file with other points; all other bytes stay.

    Raises
    ------
    InputError
        If it is no such file, or ends too early.
    """
    data = path.read_bytes()
    lines = data.split(b"\n", 3)
    coding = lines[2].strip() if len(lines) == 4 else b""
    start = _VTK_POINTS.search(data)
    if not data.startswith(b"# vtk DataFile") or coding not in (b"ASCII", b"BINARY") or not start:
        raise InputError(
            f"{path} is no legacy VTK file with POINTS of float or double; save it as one."
        )
    n, begin = 3 * int(start[1]), start.end()
    if coding == b"BINARY":
        kind = np.dtype(">f4" if start[2] == b"float" else ">f8")
        end = begin + n * kind.itemsize
        block = data[begin:end]
        complete = len(block) == n * kind.itemsize
        points = np.frombuffer(block, kind) if complete else np.empty(0)
    else:
        words = list(islice(re.finditer(rb"\S+", data[begin:]), n))
        complete = len(words) == n
        end = begin + words[-1].end() if words else begin
        try:
            points = np.array([float(word[0]) for word in words])
        except ValueError as error:
            raise InputError(f"{path} has POINTS that are no numbers; save it anew.") from error
    if not complete:
        raise InputError(f"{path} announces {n // 3} points and ends before them; save it anew.")

    def render(moved: NDArray[np.float64]) -> bytes:
        if coding == b"BINARY":
            content = moved.astype(kind).tobytes()
        else:
            content = "\n".join(" ".join(f"{x:.9g}" for x in row) for row in moved).encode()
        return data[:begin] + content + data[end:]

    frame = _SLICER_FRAME.search(lines[1])
    return points.reshape(-1, 3), frame[1].decode() if frame else "", render


def read_gifti(path: Path) -> tuple[NDArray[np.float64], str, Render]:
    """Read the point sets of a GIFTI file.

    Returns
    -------
    points : ndarray, (n, 3)
    frame : str
        "RAS"; "" for a surface in FreeSurfer's own frame, which is shifted against the world.
    render : callable
        Gives the file with other points. What FreeSurfer noted about the volume goes, as it was
        about the other image.

    Raises
    ------
    InputError
        If it is no GIFTI file, or has no point set.
    """
    try:
        image = nib.GiftiImage.from_bytes(path.read_bytes())
    except (ImageFileError, ExpatError, ValueError, LookupError, AttributeError) as error:
        raise InputError(f"{path} is no GIFTI file or is damaged; save it anew.") from error
    arrays = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
    if not arrays:
        raise InputError(f"{path} holds no points but only values; give the surface they are on.")
    ends = np.cumsum([len(array.data) for array in arrays])[:-1]
    centre = [float(arrays[0].meta.get(key, 0)) for key in _FREESURFER_CENTRE]
    in_world = arrays[0].coordsys.dataspace != 0 or not any(centre)

    def render(moved: NDArray[np.float64]) -> bytes:
        for array, part in zip(arrays, np.split(moved, ends), strict=True):
            array.data = part.astype(array.data.dtype)
            for key in [key for key in array.meta if key.startswith("VolGeom")]:
                del array.meta[key]
        return bytes(image.to_bytes())

    return np.concatenate([array.data for array in arrays]), "RAS" if in_world else "", render
