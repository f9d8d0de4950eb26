"""Names of transforms and what lies beside them, as BIDS derivatives have them."""

from __future__ import annotations

import re
from typing import Any

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.versions import version_of

_LABEL = re.compile(r"[0-9a-zA-Z+]+")


def xfm_name(source: str, target: str, suffix: str) -> str:
    """Return the name of a transform that brings *images* from one space to another.

    ``mode-image`` says so: to resample the image of the source on the grid of the target, points
    go from target to source. The displacement of a registration is therefore from the space of the
    moving to that of the fixed image, its inverse from fixed to moving.

    Parameters
    ----------
    source, target : str
        Labels of the spaces, such as "T1w" and "MNI152NLin2009cAsym": letters, digits and "+".
    suffix : str
        ".nii.gz", ".h5", or ".json" for the side-car.

    Raises
    ------
    InputError
        If a label has other characters.
    """
    for label in (source, target):
        if not _LABEL.fullmatch(label):
            raise InputError(
                f"'{label}' is no BIDS label of a space; give letters, digits and + only, such as "
                "T1w or MNI152NLin2009cAsym."
            )
    return f"from-{source}_to-{target}_mode-image_xfm{suffix}"


def xfm_sidecar(description: str, sources: list[str]) -> dict[str, Any]:
    """Return what the JSON file beside a transform holds.

    ``Description`` and ``Sources`` are fields of BIDS derivatives; for the others BIDS has no rule
    so far.

    Parameters
    ----------
    description : str
        What the file is: convention, units, frame.
    sources : list of str
        Names of the files that it was made from.
    """
    return {
        "Description": description,
        "Sources": sources,
        "Software": "rwcnet",
        "SoftwareVersion": version_of("rwcnet"),
    }
