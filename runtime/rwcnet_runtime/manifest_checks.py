"""What a manifest may say at all: types, sizes and names, whoever wrote it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

LARGEST_BYTES = 2**20
"""Of a manifest, or of the file about an engine; real ones have a few kB."""
# Far beyond all models there are, and far below what would fill memory or run for days.
LARGEST_SIZE = 10_000
LARGEST_MULTIPLE = 256

# One writing of a name on every disk: no "..", no root, no drive, no backslash, nothing hidden.
_NAME = re.compile(r"([a-z0-9][a-z0-9_-]*/)*[a-z0-9][a-z0-9_-]*\.onnx", re.ASCII | re.IGNORECASE)
_LONGEST_NAME = 200
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def brief(error: object) -> str:
    """Return a text that may hold anything as a short, printable one."""
    line = " ".join(str(error).split())
    return "".join(c if c.isprintable() else "?" for c in line)[:300]


def is_size(value: Any, least: int = 1, largest: int = LARGEST_SIZE) -> bool:
    """Whether a value is a whole number within limits; True and 1.0 are not."""
    return type(value) is int and least <= value <= largest


def is_number(value: Any) -> bool:
    """Whether a value is a number that float32 holds."""
    return type(value) in (int, float) and -3e38 < value < 3e38


def check_texts(texts: Any) -> None:
    """Refuse what is not a dict of printable texts.

    Raises
    ------
    ValueError
        With what was found.
    """
    for key, text in texts.items():
        if not (isinstance(text, str) and key.isprintable() and text.isprintable()):
            raise ValueError(f"{key!r}: {text!r}, where a line of text is wanted")


def check_files(files: Any) -> None:
    """Refuse names that could lead out of the folder, or be two names of one file, and no hashes.

    Raises
    ------
    ValueError
        With what was found.
    """
    for name, digest in files.items():
        if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a graph inside a bundle")
        if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise ValueError(f"the sha256 of {name} is {digest!r}")
    if len({name.lower() for name in files}) < len(files):
        raise ValueError("two names of files differ in case only")


def check_multiple(multiple: Any, edges: Iterable[int]) -> None:
    """Refuse a multiple of image sizes that does not go with what stages cut images into.

    Raises
    ------
    ValueError
        With what was found.
    """
    if not is_size(multiple, largest=LARGEST_MULTIPLE):
        raise ValueError(f"multiple is {multiple!r}")
    for edge in edges:
        if multiple % edge:
            raise ValueError(f"multiple is {multiple}, where a stage needs one of {edge}")


def check_range(limits: Any) -> tuple[float, float]:
    """Return the two ends of a range of intensities.

    Raises
    ------
    ValueError
        If it is none.
    """
    if type(limits) is list and len(limits) == 2 and all(map(is_number, limits)):
        lowest, highest = map(float, limits)
        if lowest < highest and math.isfinite(highest - lowest):
            return lowest, highest
    raise ValueError(f"intensity_range is {limits!r}")
