"""What is written of a registration: which files, whether they may replace others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwcnet_runtime.apply.chain import Chain
from rwcnet_runtime.apply.point_sets import PointSet
from rwcnet_runtime.apply.steps import Field
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import output_suffix
from rwcnet_runtime.labels import warp_labels
from rwcnet_runtime.report import write_report
from rwcnet_runtime.result_names import DISPLACEMENT, REPORT, listed
from rwcnet_runtime.transforms import (
    inverse_consistency,
    invert,
    write_compact,
    write_composite,
    write_fsl,
    write_learn2reg,
    xfm_name,
    xfm_sidecar,
)
from rwcnet_runtime.volumes import LabelMap, write_displacement, write_labels, write_volume
from rwcnet_runtime.writing import all_or_none, check_output

if TYPE_CHECKING:
    from rwcnet_runtime.registration import Registration

TRANSFORMS = {
    "h5": "composite.h5",
    "learn2reg": "displacement_learn2reg.nii.gz",
    "fsl": "displacement_fsl.nii.gz",
    "compact": "displacement_compact.nii.gz",
}
"""Forms that a transform can have beside that of ITK, and the files they are in."""

MASKS = ("fixed_mask", "moving_mask")
_ITK = "Displacement field as ITK and ANTs apply it: NIfTI, 5-D, intent 1007, LPS mm."


# eq=False: arrays in it have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Outputs:
    """Where results go, and which.

    Attributes
    ----------
    folder : Path
        Made if it is not there.
    overwrite : bool
        Whether results of an earlier registration in it are replaced. Those that the earlier one
        has and the new one has not are removed; other files are left.
    labels : LabelMap, optional
        Label map of the moving image, brought to the fixed grid as ``warped_labels``.
    points : PointSet, optional
        Points of the moving image, brought to the fixed one as ``warped_points``.
    inverse : bool
        Whether the displacement from the moving to the fixed image is written too.
    transforms : tuple of str
        More forms of the transform, of `TRANSFORMS`.
    bids : tuple of str, optional
        Labels of the spaces of the moving and the fixed image: transforms that ITK reads are named
        as BIDS derivatives are, with a JSON file beside each.
    page : bool
        Whether ``report.html`` is written.

    Raises
    ------
    InputError
        If there is no such form or label.
    """

    folder: Path
    overwrite: bool = False
    labels: LabelMap | None = None
    points: PointSet | None = None
    inverse: bool = False
    transforms: tuple[str, ...] = ()
    bids: tuple[str, str] | None = None
    page: bool = False

    def __post_init__(self) -> None:
        for form in self.transforms:
            if form not in TRANSFORMS:
                raise InputError(f"--transform {form}: choose from {', '.join(TRANSFORMS)}")
        if self.bids is not None and self.bids[0] == self.bids[1]:
            raise InputError(f"--bids {self.bids[0]} {self.bids[1]} names one space twice")
        self.files(Path("fixed.nii.gz"))  # a label that BIDS does not allow

    def files(self, fixed: Path) -> dict[str, str]:
        """Return the name of each file by what it is; the last is the report.

        Parameters
        ----------
        fixed
            The fixed image, whose format images have.
        """
        suffix = output_suffix(fixed)
        names = {"warped": f"warped{suffix}", "displacement": DISPLACEMENT}
        if self.inverse:
            names["inverse"] = f"inverse_{DISPLACEMENT}"
        names |= {form: TRANSFORMS[form] for form in self.transforms}
        if self.bids is not None:
            moving, still = self.bids
            ways = {"displacement": (moving, still), "inverse": (still, moving)}
            for what, way in ways.items():
                if what in names:
                    names[what] = xfm_name(*way, ".nii.gz")
                    names[f"{what}_sidecar"] = xfm_name(*way, ".json")
            if "h5" in names:
                names["h5"] = xfm_name(moving, still, ".h5")
        if self.labels is not None:
            names["labels"] = f"warped_labels{suffix}"
        if self.points is not None:
            names["points"] = f"warped_points{self.points.path.suffix}"
        if self.page:
            names["page"] = "report.html"
        return names | {"report": REPORT}

    def check(self, fixed: Path, *inputs: Path | None) -> None:
        """Refuse, before the work, what `write` would refuse after it.

        Parameters
        ----------
        fixed
            The fixed image.
        *inputs
            What else is read.

        Raises
        ------
        InputError
            If the folder cannot be written to, holds an input that would be replaced, or results
            that may not be.
        """
        names = list(self.files(fixed).values())
        read = [fixed, *(path for path in inputs if path is not None)]
        read += [given.path for given in (self.labels, self.points) if given is not None]
        check_output(self.folder, names, *read, overwrite=self.overwrite)
        # Of an earlier run what this one does not replace is removed: no input may be among it.
        check_output(self.folder, list(listed(self.folder).values()), *read)

    def write(self, found: Registration) -> list[Path]:
        """Write what was found: all files or none.

        Raises
        ------
        InputError
            As `check`, or if there is no space left.
        """
        given = (found.report.get(name) for name in ("initial_transform", *MASKS))
        self.check(
            found.fixed.path,
            found.moving.path,
            *(Path(path) for path in given if path is not None),
        )
        names = self.files(found.fixed.path)
        files = list(names.values())
        report = {"outputs": names, **found.report}
        earlier = list(listed(self.folder).values())
        with all_or_none(self.folder, files, outdated=earlier) as new:
            self._write_into(found, lambda what: new / names[what], report)
            if self.page:
                write_report(replace(found, report=report), new / names["page"])
            (new / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        return [self.folder / file for file in files]

    def _write_into(
        self, found: Registration, path: Callable[[str], Path], report: dict[str, Any]
    ) -> None:
        """Write images and transforms, and add to the report what comes to light by that."""
        fixed, moving, field = found.fixed, found.moving, found.displacement_mm
        write_volume(path("warped"), found.warped, fixed)
        write_displacement(path("displacement"), field, fixed)
        if self.inverse:
            back = invert(field, fixed.grid, moving.grid)
            write_displacement(path("inverse"), back.displacement_mm, moving)
            there_and_back = inverse_consistency(
                field, fixed.grid, back.displacement_mm, moving.grid
            )
            report["inverse"] = {**back.report, "there_and_back": there_and_back}
        if "h5" in self.transforms:
            write_composite(path("h5"), field, fixed, found.start)
        if "learn2reg" in self.transforms:
            write_learn2reg(path("learn2reg"), field, fixed, moving)
        if "fsl" in self.transforms:
            write_fsl(path("fsl"), field, fixed, moving)
        if "compact" in self.transforms:
            report["compact_error"] = write_compact(path("compact"), field, fixed)
        if self.bids is not None:
            sidecar = json.dumps(xfm_sidecar(_ITK, [fixed.path.name, moving.path.name]), indent=2)
            for what in ("displacement", *(("inverse",) if self.inverse else ())):
                path(f"{what}_sidecar").write_text(sidecar + "\n")
        if self.labels is not None:
            write_labels(path("labels"), warp_labels(self.labels, field, fixed.grid), fixed)
        if self.points is not None:
            moved = Chain([Field(fixed.grid, field)]).inverse().move(self.points.points)
            path("points").write_bytes(self.points.content(moved.points))
            report["points"] = {
                "outside": int((~moved.covered).sum()),
                "largest_residual_mm": float(moved.residual_mm.max()),
            }
