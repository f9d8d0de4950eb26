"""Tables as text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a line for the head and one a row, the columns below each other."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def size_text(size: Iterable[int]) -> str:
    """Return the size of a grid as in "160 x 192 x 224"."""
    return " x ".join(map(str, size))
