"""Write small pictures as PNG: grey, or of a palette."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3


def encode(pixels: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> bytes:
    """Encode a picture as PNG (W3C, "Portable Network Graphics Specification").

    Parameters
    ----------
    pixels : ndarray, (rows, columns), uint8
        From the top left: grey, 0 is black; with a palette, rows of it.
    palette : ndarray, (256 at most, 3), uint8, optional
        Red, green, blue.
    """
    rows, columns = pixels.shape
    kind = _GREY if palette is None else _PALETTE
    # Each row begins with the number of its filter, 0 for none.
    scanlines = np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", palette.tobytes()))
    chunks += [(b"IDAT", zlib.compress(scanlines, 9)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(_chunk(name, data) for name, data in chunks)


def data_uri(png: bytes) -> str:
    """Return a PNG as an address that holds it whole."""
    return "data:image/png;base64," + b64encode(png).decode()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
