"""What a registration found: displacement, warped image and report, in memory and in files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.volumes import Volume, write_displacement, write_volume
from rwcnet_runtime.writing import all_or_none, check_output

WARPED, DISPLACEMENT, REPORT = "warped.nii.gz", "displacement.nii.gz", "registration.json"
OUTPUTS = (WARPED, DISPLACEMENT, REPORT)


@dataclass(frozen=True, eq=False)
class Registration:
    """What a registration found.

    Attributes
    ----------
    fixed, moving : Volume
        The images as read.
    mapping : Mapping
        From the fixed grid into the moving volume, initial transform included.
    warped : ndarray, (i, j, k), float32
        The moving image on `fixed.grid`, interpolated once from the moving file's own voxels.
    displacement_mm : ndarray, (i, j, k, 3), float32
        Moving point minus fixed point, RAS+ mm, on `fixed.grid`.
    report : dict
        What `registration.json` holds.
    """

    fixed: Volume
    moving: Volume
    mapping: Mapping
    warped: NDArray[np.float32]
    displacement_mm: NDArray[np.float32]
    report: dict[str, Any]

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``warped.nii.gz``, ``displacement.nii.gz`` and ``registration.json``.

        Parameters
        ----------
        folder
            Made if it is not there; files of these names in it are replaced.

        Raises
        ------
        InputError
            If the folder cannot be written to, or holds an input that would be replaced.
        """
        folder = Path(folder)
        check_output(folder, OUTPUTS, self.fixed.path, self.moving.path)
        with all_or_none(folder, OUTPUTS) as written:
            write_volume(written / WARPED, self.warped, self.fixed)
            write_displacement(written / DISPLACEMENT, self.displacement_mm, self.fixed)
            (written / REPORT).write_text(json.dumps(self.report, indent=2) + "\n")
        return [folder / file for file in OUTPUTS]
