"""MetaImage and NRRD through SimpleITK, which reads the header before it allocates."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats.limits import check_size
from rwcnet_runtime.formats.place import grid_of_itk
from rwcnet_runtime.geometry import ImageGrid

_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class _Kind:
    """ITK's reader of a format; how a header names the file of its voxels, and where it ends."""

    reader: str
    voxel_file: re.Pattern[bytes]
    end: re.Pattern[bytes]


# At least as generous as ITK, which takes spaces, line ends and either separator, and does not look
# beyond a zero byte in a name.
_META = re.compile(rb"(?:^|\r)\s*ElementDataFile(?:\0[^\r\n=:]*)?[\s=:]+([^\r\n]*)", re.I | re.M)
_NRRD = re.compile(rb"(?:^|\r)\s*data ?file\s*:\s*([^\r\n]*)", re.I | re.M)
_METAIMAGE = _Kind("MetaImageIO", _META, re.compile(_META.pattern + rb"[\r\n]", re.I | re.M))
_KINDS = {
    **dict.fromkeys((".mha", ".mhd"), _METAIMAGE),
    **dict.fromkeys((".nrrd", ".nhdr"), _Kind("NrrdImageIO", _NRRD, re.compile(rb"\n\r?\n"))),
}
# ITK writes beyond its arrays where a MetaImage says another number of dimensions than it has.
_DIMENSIONS = re.compile(rb"NDims(?:\0[^\r\n=:]*)?[\s=:]+(\S*)")
_BITS = re.compile(r"(\d+)-bit")

SUFFIXES = tuple(_KINDS)


def decode_itk(path: Path) -> tuple[NDArray[Any], ImageGrid]:
    """Read one real-valued volume; parameters, returns and errors are those of `decode`."""
    with path.open("rb") as stream:
        start = stream.read(_HEADER_BYTES)
    if not all(re.fullmatch(rb"[2-5]", n) for n in _DIMENSIONS.findall(start)):
        raise _damaged(path)
    kind_of_file = _KINDS[path.suffix.lower()]
    voxel_file = _voxel_file(path, start, kind_of_file)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(kind_of_file.reader)  # by its name, as what is checked
    reader.SetFileName(str(path))
    with said_once(path):
        reader.ReadImageInformation()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() > 1 or "complex" in kind:
        raise InputError(
            f"{path} holds {kind} voxels where real numbers are needed; extract one channel first."
        )
    shape, grid = grid_of_itk(path, reader)
    bits = _BITS.search(kind)
    check_size(
        path,
        math.prod(shape),
        int(bits[1]) // 8 if bits else 8,
        stored=voxel_file.stat().st_size,
        packed=True,
    )
    with said_once(path):
        image = reader.Execute()
    return sitk.GetArrayFromImage(image).T.reshape(shape), grid


@contextmanager
def said_once(path: Path) -> Iterator[None]:
    """Turn what ITK raises about a file into one sentence, and keep quiet what it prints."""
    try:
        with quiet():
            yield
    except RuntimeError as error:
        if "bad_alloc" in str(error) or "Failed to allocate" in str(error):
            raise MemoryError from error
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    return InputError(
        f"{path} cannot be read by ITK or is damaged; give an intact volume in one of the "
        "formats of the README."
    )


def _voxel_file(path: Path, start: bytes, kind: _Kind) -> Path:
    """Return the file that holds the voxels, which must lie beside the header.

    ITK would follow a header to any path of this machine, a device or a pipe among them.
    """
    if len(start) == _HEADER_BYTES and not kind.end.search(start):
        raise InputError(
            f"{path} has a header that does not end within {_HEADER_BYTES} bytes; take out its "
            "comments."
        )
    names = {name.decode(errors="replace").strip() for name in kind.voxel_file.findall(start)}
    if len(names) > 1:
        raise InputError(f"{path} names the file of its voxels twice; take out one of the lines.")
    name = names.pop() if names else "LOCAL"
    if name in ("LOCAL", "Local", "local"):
        return path
    beside = {file.name for file in path.parent.iterdir() if file.is_file()}
    # Lists and patterns of files lead on to others.
    if name not in beside or name.startswith("LIST") or "%" in name:
        raise InputError(
            f"{path} says that its voxels are in {name[:80]!r}, which is not a file beside it; put "
            "it there, or write both into one file."
        )
    return path.with_name(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep quiet what ITK's readers print past Python about a damaged file: our error says it."""
    if sys.stderr is None:  # closed already
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
