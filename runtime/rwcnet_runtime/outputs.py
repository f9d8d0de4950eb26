"""What is written of a registration: which files, whether they may replace others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rwcnet_runtime.labels import warp_labels
from rwcnet_runtime.volumes import LabelMap, write_displacement, write_labels, write_volume
from rwcnet_runtime.writing import all_or_none, check_output

if TYPE_CHECKING:
    from rwcnet_runtime.registration import Registration

WARPED, DISPLACEMENT, REPORT = "warped.nii.gz", "displacement.nii.gz", "registration.json"
WARPED_LABELS = "warped_labels.nii.gz"


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
        Label map of the moving image, brought to the fixed grid as ``warped_labels.nii.gz``.
    """

    folder: Path
    overwrite: bool = False
    labels: LabelMap | None = None

    @property
    def files(self) -> list[str]:
        """Names of what is written; the last is the report."""
        return [
            WARPED,
            DISPLACEMENT,
            *([WARPED_LABELS] if self.labels is not None else []),
            REPORT,
        ]

    def check(self, *inputs: Path) -> None:
        """Refuse, before the work, what `write` would refuse after it.

        Raises
        ------
        InputError
            If the folder cannot be written to, holds an input that would be replaced, or results
            that may not be.
        """
        labels = [] if self.labels is None else [self.labels.path]
        check_output(self.folder, self.files, *inputs, *labels, overwrite=self.overwrite)

    def write(self, found: Registration) -> list[Path]:
        """Write what was found: all files or none.

        Raises
        ------
        InputError
            As `check`, or if there is no space left.
        """
        self.check(found.fixed.path, found.moving.path)
        fixed, field = found.fixed, found.displacement_mm
        earlier = _listed(self.folder / REPORT)
        with all_or_none(self.folder, self.files, outdated=earlier) as new:
            write_volume(new / WARPED, found.warped, fixed)
            write_displacement(new / DISPLACEMENT, field, fixed)
            if self.labels is not None:
                write_labels(
                    new / WARPED_LABELS, warp_labels(self.labels, field, fixed.grid), fixed
                )
            report = {"outputs": self.files, **found.report}
            (new / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        return [self.folder / file for file in self.files]


def _listed(report: Path) -> list[str]:
    """Return the files that a report says it is about, in its own folder only."""
    try:
        outputs = json.loads(report.read_text())["outputs"]
        return [name for name in outputs if Path(name).name == name]
    except (OSError, ValueError, LookupError, TypeError):  # none, of another version, or damaged
        return []
