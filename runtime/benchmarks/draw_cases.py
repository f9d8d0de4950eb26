"""Draw the pairs accuracy is measured on, once: the CSV files in ``cases/`` are committed.

    python runtime/benchmarks/draw_cases.py

Paths are relative to the data folder (``RWCNET_DATA``, by default ``../shared/data``).
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("RWCNET_DATA", "../shared/data"))
CASES = Path(__file__).parent / "cases"
FIELDS = (
    "case",
    "fixed",
    "moving",
    "fixed_labels",
    "moving_labels",
    "fixed_points",
    "moving_points",
)
HIPPOCAMPUS_PAIRS = 20


def _write(name: str, rows: list[dict[str, str]]) -> None:
    CASES.mkdir(exist_ok=True)
    with (CASES / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Write one CSV a data set."""
    folder = "hippocampus_mr"
    names = sorted(path.name for path in (DATA / folder / "images").glob("*.nii.gz"))
    random = np.random.default_rng(0)
    rows = []
    for n in range(HIPPOCAMPUS_PAIRS):
        fixed, moving = (names[i] for i in random.choice(len(names), 2, replace=False))
        rows.append(
            {
                "case": f"hippocampus-{n + 1:02d}",
                "fixed": f"{folder}/images/{fixed}",
                "moving": f"{folder}/images/{moving}",
                "fixed_labels": f"{folder}/labels/{fixed}",
                "moving_labels": f"{folder}/labels/{moving}",
            }
        )
    _write(folder, rows)
    folder = "brain_templates"
    row = {
        "case": "colin27-to-mni",
        "fixed": f"{folder}/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz",
        "moving": f"{folder}/ch2bet.nii.gz",
        "fixed_points": f"{folder}/tpl-MNI152NLin2009cAsym_afids.fcsv",
        "moving_points": f"{folder}/tpl-Colin27_afids.fcsv",
    }
    _write(folder, [row])


if __name__ == "__main__":
    main()
