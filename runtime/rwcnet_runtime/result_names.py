"""Names of the files that a registration leaves."""

from __future__ import annotations

import json
from pathlib import Path

REPORT = "registration.json"
DISPLACEMENT = "displacement.nii.gz"


def listed(folder: Path) -> dict[str, str]:
    """Return the results in a folder, by what they are; none where its report does not say.

    Parameters
    ----------
    folder
        Where ``registration.json`` is looked for; files of other folders are not believed.
    """
    try:
        outputs = json.loads((folder / REPORT).read_text(encoding="utf-8"))["outputs"]
        return {what: name for what, name in outputs.items() if Path(name).name == name}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # none, of another version, or damaged
