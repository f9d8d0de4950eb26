"""NIfTI-1 and NIfTI-2, one file or a pair of .hdr and .img, through nibabel.

The header is read alone: nibabel's own loading also reads extensions, as large as a header says.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger
from nibabel.nifti1 import Nifti1PairHeader
from nibabel.nifti2 import Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats.limits import check_size
from rwcnet_runtime.formats.place import (
    SAME_PLACE_MM,
    apart_mm,
    check_affine,
    check_real,
    is_sheared,
    one_volume,
)
from rwcnet_runtime.geometry import ImageGrid

# What nibabel, gzip and numpy raise for a file that is not NIfTI or is damaged.
UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,
    TypeError,
)
_PAIRS = ((".hdr", ".img"), (".hdr.gz", ".img.gz"))
_OF_MM = (0, 2)  # the lower three bits of xyzt_units: not said, and mm
_UNITS = {1: "metres", 3: "microns"}


def decode_nifti(path: Path) -> tuple[NDArray[Any], ImageGrid]:
    """Read one real-valued volume; parameters, returns and errors are those of `decode`."""
    image = load_nifti(path)
    shape = one_volume(path, image.shape)
    check_real(path, image.get_data_dtype())
    grid = grid_of_nifti(path, image)  # before the voxels, which take longer
    return voxels_of(path, image).reshape(shape), grid


def grid_of_nifti(path: Path, image: nib.Nifti1Image) -> ImageGrid:
    """Return where the voxels of an open NIfTI file lie, those of one frame if it has several.

    Raises
    ------
    InputError
        If readers would disagree on it.
    """
    i, j, k = image.shape[:3]
    _check_place(path, image.header, (i, j, k))
    return ImageGrid((i, j, k), image.affine.astype(np.float64))


@np.errstate(all="ignore")  # of numbers that no header should hold
def load_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file (of a pair, either) without reading its voxels.

    Raises
    ------
    InputError
        If it is none, or damaged, has no invertible affine, or says that it holds more than fits
        into it or into memory.
    """
    header_path, voxel_path = _files(path)
    try:
        with _unlogged():
            header = _header(header_path)
            negative = header["pixdim"][1:4].min() < 0
            header.check_fix()  # makes them positive, among others
            shape, dtype = header.get_data_shape(), header.get_data_dtype()
            proxy = ArrayProxy(str(voxel_path), header, mmap=False)
            affine = header.get_best_affine()
            stored = voxel_path.stat().st_size
    except UNREADABLE as error:
        raise _not_nifti(path) from error
    if negative:
        raise InputError(
            f"{path} has negative voxel sizes (pixdim), which readers take differently; make them "
            "positive, and let the sform say which way the axes run."
        )
    if min(shape, default=0) < 0 or proxy.offset < 0:
        raise _not_nifti(path)
    check_size(
        path,
        math.prod(int(n) for n in shape),
        dtype.itemsize,
        before=int(proxy.offset),
        stored=stored,
        packed=_is_packed(voxel_path),
    )
    check_affine(path, affine)
    kind: Any = nib.Nifti2Image if isinstance(header, Nifti2PairHeader) else nib.Nifti1Image
    try:
        with _unlogged():
            image: nib.Nifti1Image = kind(proxy, affine, header)
    except UNREADABLE as error:
        raise _not_nifti(path) from error
    return image


def voxels_of(path: Path, image: nib.Nifti1Image) -> NDArray[Any]:
    """Read the voxels of a file that `load_nifti` opened, scaled as its header says.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    _, voxel_path = _files(path)
    header: Any = image.dataobj
    stored = (header.shape, header.dtype, header.offset, header.slope, header.inter)
    try:
        with _opened(voxel_path) as stream:
            voxels = np.asanyarray(ArrayProxy(stream, stored, mmap=False))
            stream.read(1)  # at its end gzip compares checksums, which reading the voxels may miss
    except UNREADABLE as error:
        raise _not_nifti(path) from error
    return voxels


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep quiet what nibabel repairs in a header: where it matters, a sentence says it."""
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _files(path: Path) -> tuple[Path, Path]:
    """Return which file holds the header and which the voxels."""
    for header, voxels in _PAIRS:
        if path.name.lower().endswith((header, voxels)):
            stem, suffix = path.name[: -len(header)], path.name[-len(header) :]
            names = (stem + (x.upper() if suffix.isupper() else x) for x in (header, voxels))
            return path.with_name(next(names)), path.with_name(next(names))
    return path, path


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _opened(path: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(path) if _is_packed(path) else path.open("rb")


def _header(path: Path) -> Any:
    """Read the fixed part of a header, whatever it says."""
    with _opened(path) as stream:
        block = stream.read(Nifti2PairHeader.sizeof_hdr)
    kind: Any
    for kind in (nib.Nifti1Header, Nifti1PairHeader, nib.Nifti2Header, Nifti2PairHeader):
        size = kind.sizeof_hdr
        if len(block) >= size and kind.may_contain_header(block) and _magic(kind) in block[:size]:
            return kind(block[:size], check=False)
    raise ImageFileError("no header of NIfTI")


def _magic(kind: Any) -> bytes:
    return bytes(kind.single_magic if kind.is_single else kind.pair_magic)


def _not_nifti(path: Path) -> InputError:
    return InputError(
        f"{path} is not a NIfTI file or is damaged; give an intact volume in one of the formats "
        "of the README."
    )


@np.errstate(all="ignore")
def _check_place(path: Path, header: Any, shape: tuple[int, int, int]) -> None:
    """Refuse headers that readers disagree on: a displacement field would mean two things."""
    units = int(header["xyzt_units"]) & 7
    if units not in _OF_MM:
        raise InputError(
            f"{path} is in units of {_UNITS.get(units, 'an unknown kind')}, which some readers "
            "convert and others take for mm; scale its affine to mm, and set its units to mm."
        )
    sform, sform_code = header.get_sform(coded=True)
    try:
        qform, qform_code = header.get_qform(coded=True)
        if qform_code and not np.isfinite(qform).all():
            raise ValueError("NaN or infinite")
    except (ValueError, HeaderDataError) as error:
        raise InputError(
            f"{path} has a qform that is no rotation; repair its header, or set the qform to the "
            "sform."
        ) from error
    if not sform_code and not qform_code:
        raise InputError(
            f"{path} does not say where its voxels lie (sform and qform code are 0), which readers "
            "guess differently; set its sform first."
        )
    if not sform_code:
        return
    # ITK takes directions from the sform, but the size of a voxel from pixdim.
    sizes = np.array(header["pixdim"][1:4], np.float64)
    stretched = sform @ np.diag([*(sizes / np.linalg.norm(sform[:3, :3], axis=0)), 1])
    if not apart_mm(ImageGrid(shape, sform), ImageGrid(shape, stretched)) <= SAME_PLACE_MM:
        raise InputError(
            f"{path} has voxels of {_sizes(sizes)} mm by pixdim but of "
            f"{_sizes(np.linalg.norm(sform[:3, :3], axis=0))} mm by its sform, and readers choose "
            "differently; correct one of them first."
        )
    # A qform cannot say what a sheared sform says; that is known, see `encode`.
    if qform_code and not is_sheared(sform):
        largest = apart_mm(ImageGrid(shape, sform), ImageGrid(shape, qform))
        if not largest <= SAME_PLACE_MM:
            raise InputError(
                f"{path} has a qform and an sform that differ by {largest:.2g} mm, and readers "
                "choose differently; set one to the other first."
            )


def _sizes(sizes: NDArray[np.floating]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
