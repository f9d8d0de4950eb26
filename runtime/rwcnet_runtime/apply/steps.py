"""Single maps of world points, RAS+ mm: linear ones, displacement fields, other ITK transforms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.apply.inversion import solve
from rwcnet_runtime.apply.sampling import as_image, sample, transform_points
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid

_LPS = LPS_FROM_RAS.diagonal()[:3]
_FITTED_POINTS = 5000


@dataclass(frozen=True, eq=False)
class Moved:
    """Where points went.

    Attributes
    ----------
    points : ndarray, (n, 3), float64
        RAS+ mm.
    covered : ndarray, (n,), bool
        Whether all displacement fields on the way cover the point; where not, the value at their
        border was used.
    residual_mm : ndarray, (n,), float64
        How far from the given point the way back ends where a map was inverted; else 0.
    """

    points: NDArray[np.float64]
    covered: NDArray[np.bool_]
    residual_mm: NDArray[np.float64]


class Step(Protocol):
    """A map of world points that can be turned around."""

    def move(self, points: NDArray[np.float64]) -> Moved:
        """Map points, (n, 3) RAS+ mm."""

    def inverse(self) -> Step:
        """Return the map back."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A matrix, (4, 4), from RAS+ mm to RAS+ mm."""

    matrix: NDArray[np.float64]

    def move(self, points: NDArray[np.float64]) -> Moved:
        """Map points, (n, 3) RAS+ mm."""
        return _everywhere(points @ self.matrix[:3, :3].T + self.matrix[:3, 3])

    def inverse(self) -> Linear:
        """Return the map back."""
        return Linear(np.linalg.inv(self.matrix).astype(np.float64))


@dataclass(frozen=True, eq=False)
class Field:
    """A displacement field: x goes to x + d(x), linear between voxels.

    Beyond the outermost voxels d keeps its border value. ITK takes zero there, which tears the
    space at the border of the field.

    Attributes
    ----------
    grid : ImageGrid
        Where the displacements lie.
    displacement_mm : ndarray, (i, j, k, 3), float32
        RAS+ mm.
    """

    grid: ImageGrid
    displacement_mm: NDArray[np.float32]

    @cached_property
    def _components(self) -> list[sitk.Image]:
        # One by one: of an image of vectors, SimpleITK makes a copy at every call.
        return [as_image(self.displacement_mm[..., c]) for c in range(3)]

    def move(self, points: NDArray[np.float64]) -> Moved:
        """Map points, (n, 3) RAS+ mm."""
        voxels = self.grid.voxel_from_world(points)
        last = np.array(self.grid.shape) - 1
        covered = np.asarray(((voxels >= -0.5) & (voxels <= last + 0.5)).all(axis=1))
        within = np.clip(voxels, 0, last)
        displacement = np.stack([sample(image, within) for image in self._components], axis=1)
        return Moved(points + displacement, covered, np.zeros(len(points)))

    def inverse(self) -> Step:
        """Return the map back, solved for each point."""
        return _Inverse(self, self._fitted())

    def _fitted(self) -> Linear:
        """Fit a linear map: turns and scalings that the field contains make a good first guess."""
        every = max(1, int(np.cbrt(np.prod(self.grid.shape) / _FITTED_POINTS)))
        axes = [np.unique([*range(0, n, every), n - 1]) for n in self.grid.shape]
        voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        start = self.grid.world_from_voxel(voxels)
        end = start + self.displacement_mm[tuple(voxels.T)]
        known = np.column_stack([start, np.ones(len(start))])
        matrix = np.eye(4)
        matrix[:3] = np.linalg.lstsq(known, end)[0].T
        # A field that maps everything onto a plane has no inverse; the residual will say so.
        return Linear(matrix if abs(np.linalg.det(matrix)) > 1e-3 else np.eye(4))


@dataclass(frozen=True, eq=False)
class ItkTransform:
    """Any transform of ITK, such as B-splines, in LPS+ mm."""

    transform: sitk.Transform

    def move(self, points: NDArray[np.float64]) -> Moved:
        """Map points, (n, 3) RAS+ mm."""
        return _everywhere(transform_points(self.transform, points * _LPS) * _LPS)

    def inverse(self) -> Step:
        """Return the map back, solved for each point."""
        return _Inverse(self, Linear(np.eye(4)))


@dataclass(frozen=True, eq=False)
class _Inverse:
    forward: Field | ItkTransform
    guess: Linear
    """Roughly `forward`."""

    def move(self, points: NDArray[np.float64]) -> Moved:
        start = self.guess.inverse().move(points).points
        solution, residual = solve(
            lambda x: self.forward.move(x).points, points, start, self.guess.matrix[:3, :3]
        )
        return Moved(solution, self.forward.move(solution).covered, residual)

    def inverse(self) -> Step:
        return self.forward


def _everywhere(points: NDArray[np.float64]) -> Moved:
    return Moved(points, np.ones(len(points), bool), np.zeros(len(points)))
