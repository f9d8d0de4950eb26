"""The report as one HTML file."""

from __future__ import annotations

from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.geometry import jacobian_determinant
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.report import tables, views
from rwcnet_runtime.report.pictures import closest_affine, grey, grid_lines, signed, volume_change
from rwcnet_runtime.report.planes import Plane, choose_planes
from rwcnet_runtime.verdict import judge

if TYPE_CHECKING:
    from rwcnet_runtime.registration import Registration

# Nothing but what the file holds: no browser asks any server for anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LARGEST_DIFFERENCE = 0.5  # of the range of intensities
_LEVELS = {
    "ok": ("✓ ok", "All that was measured is as it is in registrations that worked."),
    "check": ("! check", ""),
    "failed": ("✕ failed", ""),
}


def write_report(registration: Registration, path: str | Path) -> None:
    """Write what a registration found as one HTML file of at most 3 MB.

    It shows three slices of the fixed grid: fixed and moving image in turns, before and after, as
    checkerboard and as difference; the displacement as a deformed grid; the Jacobian determinant;
    then the verdict's numbers and all else that the report says. It holds no script and refers to
    nothing outside.

    Parameters
    ----------
    registration : Registration
        Its ``report`` may lack parts, which are left out.
    path : str or Path
        Replaced if it is there.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    Path(path).write_text(_page(registration), encoding="utf-8")


def _page(registration: Registration) -> str:
    fixed, moving, report = registration.fixed, registration.moving, registration.report
    planes = choose_planes(fixed.data, fixed.grid)
    names = f"{escape(fixed.path.name)} ← {escape(moving.path.name)}"
    affine = closest_affine(registration.displacement_mm)
    lines = [grid_lines(x, registration.displacement_mm, affine, fixed.grid) for x in planes]
    both = f"-{_LARGEST_DIFFERENCE:g}", "0", f"+{_LARGEST_DIFFERENCE:g}"
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    body = [
        f"<header><h1>{names}</h1><p>Fixed image ← moving image{_date(report)}</p></header>",
        _verdict(report),
        _section(
            "In turns",
            "Radiological convention: the patient's right (R) is on the left; A front, P back, S "
            "head, I feet. Slices go through the middle of what is bright; spacing is true. Rest "
            "the pointer on a picture to stop it.",
            '<input type="radio" name="see" id="see-both" checked><label for="see-both">in turns'
            '</label><input type="radio" name="see" id="see-fixed"><label for="see-fixed">fixed'
            '</label><input type="radio" name="see" id="see-moving"><label for="see-moving">moving'
            "</label><h3>before: by the start alone</h3>"
            f"{views.flicker(planes, 'before')}<h3>after</h3>{views.flicker(planes, 'after')}",
        ),
        _section(
            "Checkerboard",
            "Edges should go on from tile to tile.",
            views.tabs(
                "board", views.checkerboard(planes, "before"), views.checkerboard(planes, "after")
            ),
        ),
        _section(
            "Difference",
            "Moving minus fixed, in shares of each image's range. Where the contrasts of the "
            "images differ, it says little.",
            views.tabs(
                "difference",
                views.single(planes, "difference-before"),
                views.single(planes, "difference-after"),
            )
            + views.colour_bar(both),
        ),
        _section(
            "Displacement",
            "Where the lines of a straight grid on the fixed image go to in the moving one, without"
            " the affine part of the displacement. Behind it, the moving image after registration.",
            views.deformed_grid(planes, "after", lines),
        ),
        _section(
            "Change of volume",
            "Jacobian determinant of the whole displacement: 2 where the moving tissue is twice as "
            "large as the fixed.",
            views.single(planes, "jacobian") + views.colour_bar(("¼", "½", "1", "2", "4"), True),
        ),
        _section(
            "Numbers",
            "",
            f'<div class="columns">{tables.changes(report)}{tables.numbers(report)}'
            f"{tables.times(report)}</div>",
        ),
        _section("Images", "", tables.images(fixed, moving)),
        _section("Provenance", "", tables.provenance(report)),
        "<footer>Made by RWCNet. Not a medical device.</footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{names}</title><style>{style}{_images(registration, planes)}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _section(title: str, note: str, content: str) -> str:
    noted = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{noted}{content}</section>"


def _date(report: dict[str, Any]) -> str:
    """Return when it was; a report that is the same twice does not say it."""
    date = report.get("date")
    return f", registered {escape(str(date).replace('T', ' '))}" if date else ""


def _verdict(report: dict[str, Any]) -> str:
    verdict = report.get("verdict") or asdict(judge(report))
    word, fallback = _LEVELS[verdict["level"]]
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict["reasons"])
    said = f"<ul>{reasons}</ul>" if reasons else f"<p>{fallback}</p>"
    return f'<div class="verdict {verdict["level"]}"><strong>{word}</strong>{said}</div>'


def _images(registration: Registration, planes: list[Plane]) -> str:
    """Return a style rule for each picture, so that each is in the file once."""
    fixed, moving = registration.fixed, registration.moving
    start = Mapping(fixed.grid, moving.grid, registration.start).resample(moving.data)
    fixed_range, moving_range = _range(fixed.data), _range(moving.data)
    determinant = jacobian_determinant(registration.displacement_mm, fixed.grid)
    rules = []
    for plane in planes:
        still = _scaled(plane.picture(fixed.data), *fixed_range)
        found = {"fixed": grey(still), "jacobian": volume_change(plane, determinant)}
        for name, volume in (("before", start), ("after", registration.warped)):
            picture = _scaled(plane.picture(volume), *moving_range)
            found[name] = grey(picture)
            found[f"difference-{name}"] = signed(picture - still, _LARGEST_DIFFERENCE)
        rules += [
            f".{name}-{plane.name}{{background-image:url({uri})}}" for name, uri in found.items()
        ]
    return "".join(rules)


def _range(data: NDArray[np.float32]) -> tuple[float, float]:
    """Return what is black and what is white: where `preprocess.normalise` puts 0 and 1."""
    lowest, highest = np.percentile(data[data > data.min()], (0.5, 99.5))
    return float(lowest), float(highest)


def _scaled(picture: NDArray[np.float32], lowest: float, highest: float) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = np.clip((picture - lowest) / (highest - lowest), 0, 1)
    return scaled
