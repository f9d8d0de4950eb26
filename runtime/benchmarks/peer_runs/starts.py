"""One affine start a pair, computed once, stored beside the cases file and given to all methods."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813

from peer_runs.environments import Launcher, PeerError
from rwcnet_runtime import Mapping, read_volume
from rwcnet_runtime.evaluation import Case
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.metrics import mutual_information
from rwcnet_runtime.preprocess import normalise

RULE = (
    "A case that names an initial transform keeps it. For any other, ANTsPy's Affine is run from "
    "two starts, the centres of mass of the images laid on each other (its default) and the "
    "headers as they are; of both results and the headers alone, the one with the highest mutual "
    "information of the images on the whole fixed grid is kept. No label or landmark is looked at."
)
_AFFINES = {
    "affine from centres of mass": {"type_of_transform": "Affine"},
    "affine from headers": {"type_of_transform": "Affine", "initial_transform": "Identity"},
}
_COLUMN = "initial_transform"


def complete(cases_file: Path, case: Case, launcher: Launcher) -> None:
    """Compute the start of a case that has none, and name it in the cases file.

    Writes ``transforms/<cases file>/<case>.tfm`` (ITK text, fixed to moving points in LPS+ mm)
    beside the cases file, its name into the column ``initial_transform`` of all rows with these
    images, and how it was chosen into ``transforms/<cases file>.json``.

    Raises
    ------
    RwcnetError
        If an image cannot be used, or ANTsPy fails from both starts.
    """
    start, found = _find(case, launcher)
    name = f"transforms/{cases_file.stem}/{case.name}.tfm"
    target = cases_file.parent / name
    target.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteTransform(start, str(target))
    record = read_record(cases_file) | {case.name: found}
    _replace(_record_file(cases_file), json.dumps(record, indent=1) + "\n")
    name_start(cases_file, case.name, name)


def read_record(cases_file: Path) -> dict[str, Any]:
    """Return how the starts computed for a cases file were chosen, by case."""
    path = _record_file(cases_file)
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return record


def name_start(cases_file: Path, case: str, transform: str) -> None:
    """Write the path of a transform, relative to the cases file, into the rows of a pair.

    These are the row of the case and all others of the same two images.
    """
    with cases_file.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or ())
    if _COLUMN not in columns:
        columns.append(_COLUMN)
    (pair,) = ((row["fixed"], row["moving"]) for row in rows if row["case"] == case)
    for row in rows:
        if (row["fixed"], row["moving"]) == pair:
            row[_COLUMN] = transform
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _replace(cases_file, text.getvalue())


def _record_file(cases_file: Path) -> Path:
    return cases_file.parent / "transforms" / f"{cases_file.stem}.json"


def _find(case: Case, launcher: Launcher) -> tuple[sitk.Transform, dict[str, Any]]:
    fixed, moving = read_volume(case.fixed), read_volume(case.moving)
    images = normalise(fixed.data), normalise(moving.data)

    def likeness(transform: sitk.Transform) -> float:
        warped = Mapping(fixed.grid, moving.grid, transform).resample(images[1])
        return round(mutual_information(images[0], warped), 4)

    candidates: dict[str, sitk.Transform] = {"headers": sitk.AffineTransform(3)}
    tried: dict[str, dict[str, Any]] = {"headers": {}}
    for name, settings in _AFFINES.items():
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder, "affine.mat")
            job = {
                "fixed": str(case.fixed),
                "moving": str(case.moving),
                "settings": settings,
                "written": "*GenericAffine.mat",
                "result": str(result),
            }
            try:
                outcome = launcher.run("antspy", "run_antspy.py", job)
                tried[name] = {"seconds": outcome["seconds"], "versions": outcome["versions"]}
                candidates[name] = read_initial_transform(result)
            except PeerError as error:
                tried[name] = {"failed": str(error)}
    if len(candidates) == 1:
        raise PeerError(f"No affine for {case.name}: {tried[name]['failed']}")
    for name, transform in candidates.items():
        tried[name]["mutual_information"] = likeness(transform)
    chosen = max(candidates, key=lambda name: tried[name]["mutual_information"])
    return candidates[chosen], {"chosen": chosen, "tried": tried}


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
