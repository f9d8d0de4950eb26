"""The numbers and the provenance of a report as HTML."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from nibabel.orientations import aff2axcodes

from rwcnet_runtime.verdict import look_up
from rwcnet_runtime.volumes import Volume

# Path in the report, what it is, digits after the point, unit.
_CHANGES = (
    ("similarity.correlation", "correlation", 3, ""),
    ("similarity.mutual_information", "mutual information", 3, " nats"),
    ("similarity.local_correlation", "local correlation, squared", 3, ""),
    ("overlap.foreground_dice", "overlap of foregrounds, Dice", 3, ""),
)
_NUMBERS = (
    ("overlap.in_view_percent", "foreground within the moving image", 1, " %"),
    ("displacement_mm.mean", "displacement, start included: mean", 2, " mm"),
    ("displacement_mm.max", "displacement: largest", 2, " mm"),
    ("flow_vox.mean", "found by the network: mean", 2, " voxels"),
    ("flow_vox.p99", "found by the network: 99 % below", 2, " voxels"),
    ("flow_vox.max", "found by the network: largest", 2, " voxels"),
    ("jacobian_determinant.min", "Jacobian determinant: smallest", 3, ""),
    ("jacobian_determinant.p1", "Jacobian determinant: 1 % below", 3, ""),
    ("jacobian_determinant.p99", "Jacobian determinant: 99 % below", 3, ""),
    ("jacobian_determinant.folded_percent", "folded voxels", 3, " %"),
    ("jacobian_determinant.non_diffeomorphic_percent", "non-diffeomorphic volume", 3, " %"),
)
# Shown elsewhere on the page.
_ELSEWHERE = {"similarity", "overlap", "displacement_mm", "flow_vox", "jacobian_determinant"}
_ELSEWHERE |= {"verdict", "seconds", "fixed", "moving", "refinement_losses", "grid"}


def changes(report: dict[str, Any]) -> str:
    """Return a table of what there is before and after."""
    rows = ""
    for path, title, digits, unit in _CHANGES:
        found = look_up(report, path)
        if found is not None:
            before, after = (f"{found[when]:.{digits}f}{unit}" for when in ("before", "after"))
            rows += f"<tr><th>{title}</th><td>{before}</td><td>{after}</td></tr>"
    return f"<table><thead><tr><th></th><td>before</td><td>after</td></tr></thead>{rows}</table>"


def numbers(report: dict[str, Any]) -> str:
    """Return a table of what there is once."""
    rows = ""
    for path, title, digits, unit in _NUMBERS:
        found = look_up(report, path)
        if found is not None:
            rows += f"<tr><th>{title}</th><td>{found:.{digits}f}{unit}</td></tr>"
    return f"<table>{rows}</table>"


def images(fixed: Volume, moving: Volume) -> str:
    """Return a table of the two images as they are stored."""
    rows = ""
    for name, volume in (("fixed", fixed), ("moving", moving)):
        grid = volume.stored_grid
        shape = " × ".join(map(str, grid.shape))
        spacing = " × ".join(f"{edge:.4g}" for edge in grid.spacing)
        axes = "".join(aff2axcodes(grid.affine))
        rows += (
            f"<tr><th>{name}</th><td>{escape(str(volume.path))}</td><td>{shape}</td>"
            f"<td>{spacing} mm</td><td>{axes}</td></tr>"
        )
    return (
        '<table class="files"><thead><tr><th></th><td>file</td><td>voxels</td><td>spacing</td>'
        f"<td>axes</td></tr></thead>{rows}</table>"
    )


def times(report: dict[str, Any]) -> str:
    """Return a table of the parts of the work and what each took."""
    seconds: dict[str, float] = report.get("seconds", {})
    if not seconds:
        return ""
    rows = "".join(
        f"<tr><th>{escape(part)}</th><td>{spent:.2f} s</td></tr>" for part, spent in seconds.items()
    )
    return f"<table>{rows}<tr><th>all</th><td>{sum(seconds.values()):.2f} s</td></tr></table>"


def provenance(report: dict[str, Any]) -> str:
    """Return a table of all that the report says and the page has nowhere else."""
    rest = {name: value for name, value in report.items() if name not in _ELSEWHERE}
    if losses := report.get("refinement_losses"):
        rest["refinement_loss"] = f"{losses[0]:.4f} to {losses[-1]:.4f} in {len(losses)} steps"
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(value)}</td></tr>"
        for name, value in _flat(rest)
    )
    return f'<table class="provenance">{rows}</table>'


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}, ")
        elif value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{above}{name}", shown
