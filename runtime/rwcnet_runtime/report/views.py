"""The pictures of a report as HTML: slices of one scale, above each other or side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rwcnet_runtime.report.pictures import FOLD_COLOUR, scale_colours
from rwcnet_runtime.report.planes import Plane

_WIDTH, _HEIGHT = 1130.0, 400.0  # px that a row of three may fill
_TILES = 9  # of the checkerboard along the longest edge


def flicker(planes: Sequence[Plane], other: str) -> str:
    """Return a row in which the fixed image and another one take turns."""
    return row(
        planes,
        [
            _layer("fixed", plane)
            + _layer(other, plane, "turn")
            + '<span class="who">fixed</span><span class="who turn">moving</span>'
            for plane in planes
        ],
    )


def checkerboard(planes: Sequence[Plane], other: str) -> str:
    """Return a row with tiles of the fixed image and of another one in turns."""
    tile_mm = max(max(plane.extent_mm) for plane in planes) / _TILES
    return row(
        planes,
        [
            _layer("fixed", plane)
            + _layer(
                other,
                plane,
                "tiles",
                # A pattern repeats after two tiles; a percentage is of the panel less one pattern's
                # size for positions, but of the panel for sizes.
                "mask-size:{:.3f}% {:.3f}%".format(
                    *(200 * tile_mm / extent for extent in plane.extent_mm)
                ),
            )
            for plane in planes
        ],
    )


def single(planes: Sequence[Plane], image: str) -> str:
    """Return a row of one image."""
    return row(planes, [_layer(image, plane) for plane in planes])


def deformed_grid(planes: Sequence[Plane], image: str, lines: Iterable[Sequence[str]]) -> str:
    """Return a row of an image under a grid, given as `grid_lines` for each plane."""
    return row(
        planes,
        [
            _layer(image, plane, "dim")
            + '<svg viewBox="0 0 {:.2f} {:.2f}" preserveAspectRatio="none">'.format(
                *plane.extent_mm
            )
            + "".join(f'<polyline points="{points}"/>' for points in found)
            + "</svg>"
            for plane, found in zip(planes, lines, strict=True)
        ],
    )


def row(planes: Sequence[Plane], contents: Iterable[str]) -> str:
    """Return a panel for each plane, all with as many pixels a millimetre."""
    widths, heights = zip(*(plane.extent_mm for plane in planes), strict=True)
    scale = min(_WIDTH / sum(widths), _HEIGHT / max(heights))
    panels = (
        f'<figure class="panel" role="img" aria-label="{plane.name}" '
        f'style="flex:{width:.2f} 1 0;aspect-ratio:{width:.2f}/{height:.2f}">'
        f"{content}{_marks(plane)}</figure>"
        for plane, width, height, content in zip(planes, widths, heights, contents, strict=True)
    )
    return f'<div class="row" style="max-width:{sum(widths) * scale:.0f}px">{"".join(panels)}</div>'


def tabs(name: str, before: str, after: str) -> str:
    """Return two rows of which one is seen: after, or before where that is chosen."""
    return (
        f'<div class="tabs"><input type="radio" name="{name}" id="{name}-before">'
        f'<label for="{name}-before">before</label>'
        f'<input type="radio" name="{name}" id="{name}-after" checked>'
        f'<label for="{name}-after">after</label>'
        f'<div class="choice">{before}</div><div class="choice">{after}</div></div>'
    )


def colour_bar(ticks: Sequence[str], fold: bool = False) -> str:
    """Return the scale of `signed` pictures with labels at equal distances."""
    colours = ",".join(scale_colours())
    labels = "".join(f"<span>{tick}</span>" for tick in ticks)
    folds = (
        f'<span class="fold"><i style="background:rgb{FOLD_COLOUR}"></i>folded</span>'
        if fold
        else ""
    )
    return (
        f'<div class="scale"><div><div class="bar" style="background:linear-gradient(90deg,'
        f'{colours})"></div><div class="ticks">{labels}</div></div>{folds}</div>'
    )


def _layer(image: str, plane: Plane, kind: str = "", style: str = "") -> str:
    styled = f' style="{style}"' if style else ""
    return f'<div class="layer {kind} {image}-{plane.name}"{styled}></div>'


def _marks(plane: Plane) -> str:
    places = ("left", "right", "top", "bottom")
    return "".join(
        f'<b class="mark {place}">{mark}</b>'
        for place, mark in zip(places, plane.marks, strict=True)
    )
