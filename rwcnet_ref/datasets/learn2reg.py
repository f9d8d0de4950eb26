"""The JSON that describes a Learn2Reg dataset (OASIS, NLST, HippocampusMR and others)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.cases import Case

# What an entry of "training" may give beside its image, and the attribute of a case it becomes.
_PARTS = {"label": "labels", "mask": "mask", "keypoints": "points"}


@dataclass(frozen=True)
class Learn2Reg:
    """The pairs of a dataset.

    Attributes
    ----------
    training, validation
        Cases without any image in common. Their images share one grid: voxel (i, j, k) of both
        files is one place, whatever their headers say.
    labels
        The labels that the dataset names, without 0; empty if it names none.
    """

    training: list[Case]
    validation: list[Case]
    labels: tuple[int, ...]


def read_learn2reg(path: Path) -> Learn2Reg:
    """Read the JSON of a dataset and see that all files it names are there.

    Training pairs are those of ``training_paired_images``, or else any two images of ``training``
    in both orders; validation pairs are those of ``registration_val``. Pairs with an image of the
    validation are no training pairs: the published lists of NLST hold them twice. Labels, masks and
    keypoints of an image are what its entry in ``training`` names; keypoints, rows of voxel indices
    of the file, match row by row and may be named like an image, ``.nii.gz`` for ``.csv``.

    Parameters
    ----------
    path
        The JSON; paths in it are relative to its folder.

    Raises
    ------
    InputError
        If the file is no such JSON, a file it names is missing, or no training pair is left.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); give the JSON of a Learn2Reg dataset."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        raise InputError(
            f"{path} has no list 'training', as the JSON of a Learn2Reg dataset has; check that it "
            "is the right file."
        )
    wanted = {"training_paired_images": list, "registration_val": list, "labels": dict}
    for key, kind in wanted.items():
        if not isinstance(content.get(key) or kind(), kind):
            raise InputError(
                f"{path} has {json.dumps(content[key])[:60]} as {key!r}, where a "
                f"{'list' if kind is list else 'table'} is needed; correct it."
            )
    scans: dict[Path, dict[str, Path]] = {}
    for entry in content["training"]:
        image = _file(path, entry, "image")
        scans[image] = {
            attribute: _file(path, entry, part)
            for part, attribute in _PARTS.items()
            if part in entry
        }
    listed, validating = (
        [
            (_file(path, entry, "fixed"), _file(path, entry, "moving"))
            for entry in content.get(key) or []
        ]
        for key in ("training_paired_images", "registration_val")
    )
    held_out = set(itertools.chain(*validating))
    training = [
        pair for pair in listed or itertools.permutations(scans, 2) if held_out.isdisjoint(pair)
    ]
    if not training:
        raise InputError(
            f"{path} leaves no pair to train on: it needs pairs in 'training_paired_images', or "
            "two images in 'training', that are not in 'registration_val'."
        )
    return Learn2Reg(
        [_case(scans, *pair) for pair in training],
        [_case(scans, *pair) for pair in validating],
        _labels(path, content.get("labels") or {}),
    )


def _file(path: Path, entry: Any, key: str) -> Path:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
        raise InputError(
            f"{path} has the entry {json.dumps(entry)} where one with a path as {key!r} is needed; "
            "correct it."
        )
    found: Path = path.parent / entry[key]
    if key == "keypoints":
        found = found.with_name(found.name.removesuffix(".nii.gz").removesuffix(".csv") + ".csv")
    if not found.is_file():
        raise InputError(f"{path} names {found}, which is not there; complete the dataset.")
    return found


def _case(scans: dict[Path, dict[str, Path]], fixed: Path, moving: Path) -> Case:
    case = Case(f"{_stem(fixed)}_{_stem(moving)}", fixed, moving, points_frame="voxel")
    parts = {
        f"{side}_{attribute}": file
        for side, image in (("fixed", fixed), ("moving", moving))
        for attribute, file in scans.get(image, {}).items()
    }
    for attribute in ("labels", "points"):
        # What one image alone has says nothing about a pair.
        if not {f"fixed_{attribute}", f"moving_{attribute}"} <= parts.keys():
            parts.pop(f"fixed_{attribute}", None)
            parts.pop(f"moving_{attribute}", None)
    return replace(case, **parts)  # type: ignore[arg-type]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def _labels(path: Path, named: Mapping[str, Any]) -> tuple[int, ...]:
    """Take the labels from ``{"1": name, ...}``, or from one such table for each modality."""
    tables = list(named.values())
    names = (
        set(itertools.chain(*tables)) if all(isinstance(x, dict) for x in tables) else set(named)
    )
    try:
        return tuple(sorted({int(name) for name in names} - {0}))
    except ValueError as error:
        raise InputError(
            f"{path} names the labels {', '.join(sorted(names))} where whole numbers are needed; "
            "correct 'labels'."
        ) from error
