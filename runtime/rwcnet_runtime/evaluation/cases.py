"""The cases file: which pairs are evaluated, and what is known about each."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.landmarks import FRAMES, states_its_frame

_TOGETHER = (("fixed_labels", "moving_labels"), ("fixed_points", "moving_points"))


@dataclass(frozen=True)
class Case:
    """One pair of images and its truth.

    Attributes
    ----------
    name : str
        Unique in its file; results are named after it.
    fixed, moving : Path
        The images.
    fixed_labels, moving_labels : Path, optional
        Label maps; the fixed one lies on the grid of the fixed image.
    fixed_points, moving_points : Path, optional
        Landmarks, matched by label where both files have labels and by row where not.
    points_frame : str, optional
        "RAS" or "LPS" for mm, "voxel" for indices into the array of the image's file. Needed where
        the format of the points does not say it.
    points_left_out : tuple of str
        Labels of landmarks that are no truth for this pair.
    fixed_mask, moving_mask : Path, optional
        Where the anatomy is; folds and the spread of the Jacobian are measured in `fixed_mask`,
        which lies on the grid of the fixed image. No measure needs `moving_mask`; it is there for
        whoever registers the cases.
    initial_transform : Path, optional
        ITK transform, fixed to moving points in LPS mm, that every method starts from.
    """

    name: str
    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None
    points_frame: str | None = None
    points_left_out: tuple[str, ...] = ()
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    initial_transform: Path | None = None


COLUMNS = ("case", *(field.name for field in fields(Case) if field.name != "name"))


def read_cases(path: str | Path, data: str | Path | None = None) -> list[Case]:
    """Read a cases file and see that everything it names is there.

    Parameters
    ----------
    path
        CSV with the columns ``case,fixed,moving`` and any other attribute of `Case`; fields may be
        empty. ``points_left_out`` separates labels by spaces.
    data
        Folder the paths are relative to; by default the one of the CSV. ``initial_transform``, a
        result that is kept beside the cases, is always relative to the CSV's own folder.

    Raises
    ------
    InputError
        If there is no such file; else naming file, row (the first below the header is 2) and
        column of what cannot be used.
    """
    path = Path(path)
    data = path.parent if data is None else Path(data)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the CSV file that lists the cases.")
    if not path.exists():
        raise InputError(f"{path} does not exist; give the CSV file that lists the cases.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or ())
            _check_header(path, header)
            cases: list[Case] = []
            for row in reader:
                where = f"{path}, row {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(f"{where} has not the {len(header)} fields of the header.")
                case = _case(where, {name: text.strip() for name, text in row.items()}, path, data)
                if any(case.name == other.name for other in cases):
                    raise InputError(f"{where}, column case: {case.name} is there twice.")
                cases.append(case)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a cases CSV ({error}).") from error
    if not cases:
        raise InputError(f"{path} has no row below its header; give at least one case.")
    return cases


def _check_header(path: Path, header: list[str]) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in ("case", "fixed", "moving") if name not in header]
    if unknown or missing or len(set(header)) < len(header):
        found = (
            f"the unknown column {unknown[0]!r}"
            if unknown
            else f"no column {missing[0]!r}"
            if missing
            else "a column twice"
        )
        raise InputError(f"{path} has {found}; its columns can be {', '.join(COLUMNS)}.")


def _case(where: str, row: dict[str, str], path: Path, data: Path) -> Case:
    name = row.pop("case")
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"{where}, column case: {name!r} is no name that a file can have.")
    frame = row.pop("points_frame", "") or None
    left_out = tuple(row.pop("points_left_out", "").split())
    files: dict[str, Path] = {}
    for column, text in row.items():
        if text:
            files[column] = (path.parent if column == "initial_transform" else data) / text
            if not files[column].is_file():
                raise InputError(f"{where}, column {column}: {files[column]} is not a file.")
    for column in ("fixed", "moving"):
        if column not in files:
            raise InputError(f"{where}, column {column}: it is empty and an image is needed.")
    for one, other in (*_TOGETHER, *(pair[::-1] for pair in _TOGETHER)):
        if one in files and other not in files:
            raise InputError(f"{where}, column {other}: it is empty although {one} is given.")
    if frame is not None and frame not in FRAMES:
        raise InputError(f"{where}, column points_frame: {frame!r} is none of {', '.join(FRAMES)}.")
    for column in ("fixed_points", "moving_points"):
        if frame is None and column in files and not states_its_frame(files[column]):
            raise InputError(
                f"{where}, column points_frame: it is empty and {files[column].name} does not say "
                f"it; write one of {', '.join(FRAMES)}."
            )
    return Case(name, points_frame=frame, points_left_out=left_out, **files)
