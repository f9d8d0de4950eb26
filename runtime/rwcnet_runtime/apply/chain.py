"""Transforms given on the command line, read and applied one after the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.apply.steps import Field, ItkTransform, Linear, Moved, Step
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import VECTOR, grid_of_nifti, load_nifti, voxels_of
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.result_names import DISPLACEMENT, listed
from rwcnet_runtime.transforms.composite import matrix_of

_LPS = LPS_FROM_RAS.diagonal()[:3].astype(np.float32)
_BRACKETS = re.compile(r"\[\s*(.+?)\s*,\s*([01])\s*\]")


@dataclass(frozen=True)
class Given:
    """A transform as the user names it: its file, and whether it is to be inverted."""

    path: Path
    inverted: bool = False

    @property
    def file(self) -> Path:
        """The file itself, also where a folder of rwcnet-infer is named."""
        if not self.path.is_dir():
            return self.path
        return self.path / listed(self.path).get("displacement", DISPLACEMENT)

    @classmethod
    def parse(cls, text: str) -> Given:
        """Read ``FILE``, or ``[FILE,1]`` for its inverse, as ANTs writes it."""
        match _BRACKETS.fullmatch(text):
            case re.Match() as found:
                return cls(Path(found[1]), found[2] == "1")
        return cls(Path(text))


@dataclass(frozen=True, eq=False)
class Chain:
    """Maps applied one after the other to world points, RAS+ mm.

    Attributes
    ----------
    steps : sequence of Step
        The first is applied to points first.
    """

    steps: Sequence[Step]

    def move(self, points: NDArray[np.float64]) -> Moved:
        """Map points, (n, 3) RAS+ mm."""
        covered, residual = np.ones(len(points), bool), np.zeros(len(points))
        for step in self.steps:
            moved = step.move(points)
            points = moved.points
            covered, residual = covered & moved.covered, np.maximum(residual, moved.residual_mm)
        return Moved(points, covered, residual)

    def inverse(self) -> Chain:
        """Return the way back."""
        return Chain([step.inverse() for step in reversed(self.steps)])


def read_chain(transforms: Sequence[Given]) -> Chain:
    """Read transforms that lead from points of the fixed to points of the moving image.

    Parameters
    ----------
    transforms : sequence of Given
        The first is applied to fixed points first, as ANTs does with several ``-t``. A file is an
        ITK transform (.mat, .txt, .tfm, .h5), a displacement field (.nii, .nii.gz) as ITK and ANTs
        write it, or a folder that rwcnet-infer wrote, of which the displacement is taken.

    Raises
    ------
    InputError
        If one cannot be read or has no inverse that is needed.
    """
    steps: list[Step] = []
    for given in transforms:
        read = Chain(_read(given))
        steps += read.inverse().steps if given.inverted else read.steps
    return Chain(steps)


def _read(given: Given) -> list[Step]:
    path = given.file
    if given.path.is_dir() and not path.is_file():
        raise InputError(
            f"{given.path} is a folder without {DISPLACEMENT}; give one that rwcnet-infer wrote, "
            "or the path of a transform."
        )
    if path.name.endswith((".nii", ".nii.gz")):
        return [_read_field(path)]
    return _steps_of(read_initial_transform(path), path)


def _read_field(path: Path) -> Field:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a transform.")
    image = load_nifti(path)
    intent = int(image.header["intent_code"])
    if len(image.shape) != 5 or image.shape[3:] != (1, 3) or intent != VECTOR:
        raise InputError(
            f"{path} has shape {image.shape} and NIfTI intent {intent} where a displacement field "
            f"of shape (i, j, k, 1, 3) and intent {VECTOR} is needed; write it as ITK and "
            "ANTs do."
        )
    grid = grid_of_nifti(path, image)
    displacement = voxels_of(path, image)[..., 0, :].astype(np.float32) * _LPS
    return _checked(Field(grid, displacement), path)


def _steps_of(transform: sitk.Transform, path: Path) -> list[Step]:
    """Take a transform of ITK apart, first applied first."""
    if transform.IsLinear():
        return [_linear(transform, path)]
    match transform.GetName():
        case "CompositeTransform":
            parts = sitk.CompositeTransform(transform)  # ITK applies the last one first
            numbers = reversed(range(parts.GetNumberOfTransforms()))
            return [step for n in numbers for step in _steps_of(parts.GetNthTransform(n), path)]
        case "DisplacementFieldTransform":
            image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
            lps = np.eye(4)
            lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
            lps[:3, 3] = image.GetOrigin()
            vectors = sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3).astype(np.float32)
            return [
                _checked(
                    Field(ImageGrid(image.GetSize(), LPS_FROM_RAS @ lps), vectors * _LPS), path
                )
            ]
    return [ItkTransform(transform)]


def _linear(transform: sitk.Transform, path: Path) -> Linear:
    matrix = matrix_of(transform)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError(
            f"{path} holds a linear transform that brings space onto a plane or is not finite; "
            "compute it again."
        )
    return Linear(matrix)


def _checked(field: Field, path: Path) -> Field:
    if not np.isfinite(field.displacement_mm).all():
        raise InputError(f"{path} holds NaN or infinite displacements; compute it again.")
    return field
