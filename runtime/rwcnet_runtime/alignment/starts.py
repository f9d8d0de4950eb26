"""Where linear registration starts: headers, centres, moments, each with a few rotations."""

from __future__ import annotations

import itertools

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.alignment.coarse import Coarse

_ANGLE = np.radians(20.0)  # of the rotations tried, about each axis: -20, 0 and 20 degrees


def header(fixed: Coarse) -> sitk.Euler3DTransform:
    """Return the identity, to be rotated about the middle of the fixed field of view."""
    return rigid(np.eye(3), _middle(fixed), _middle(fixed))


def centre(fixed: Coarse, moving: Coarse) -> sitk.Euler3DTransform:
    """Lay the middles of the fields of view on each other."""
    return rigid(np.eye(3), _middle(fixed), _middle(moving))


def moments(fixed: Coarse, moving: Coarse) -> list[sitk.Euler3DTransform]:
    """Lay the centres of the foregrounds on each other, without rotation and with their axes.

    The first of the five has no rotation; the others turn the principal axes of the fixed
    foreground onto those of the moving one, which both point either way.
    """
    (from_centre, from_axes), (to_centre, to_axes) = _moments(fixed), _moments(moving)
    rotations = [np.eye(3)]
    for signs in itertools.product((1, -1), repeat=3):
        rotation = to_axes @ np.diag(signs) @ from_axes.T
        if np.linalg.det(rotation) > 0:
            rotations.append(rotation)
    return [rigid(rotation, from_centre, to_centre) for rotation in rotations]


def turned(start: sitk.Euler3DTransform) -> list[sitk.Euler3DTransform]:
    """Turn a start about its centre by -20, 0 and 20 degrees about each axis: 27, itself one."""
    found = []
    for angles in itertools.product((0.0, -_ANGLE, _ANGLE), repeat=3):
        other = sitk.Euler3DTransform(start)
        turn = sitk.Euler3DTransform([0.0, 0.0, 0.0], *angles)
        matrix = np.reshape(start.GetMatrix(), (3, 3)) @ np.reshape(turn.GetMatrix(), (3, 3))
        other.SetMatrix(matrix.ravel().tolist())
        found.append(other)
    return found


def rigid(
    rotation: NDArray[np.float64],
    from_point: NDArray[np.float64],
    to_point: NDArray[np.float64],
) -> sitk.Euler3DTransform:
    """Rotate about a point and move it onto another one; (3, 3), and (3,) in LPS mm."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter(from_point.tolist())
    transform.SetMatrix(rotation.ravel().tolist(), 1e-6)
    transform.SetTranslation((to_point - from_point).tolist())
    return transform


def _middle(coarse: Coarse) -> NDArray[np.float64]:
    index = [(size - 1) / 2 for size in coarse.image.GetSize()]
    return np.array(coarse.image.TransformContinuousIndexToPhysicalPoint(index))


def _moments(coarse: Coarse) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centre and principal axes (columns) of the foreground, LPS mm."""
    index = np.argwhere(sitk.GetArrayViewFromImage(coarse.foreground) > 0)[:, ::-1]
    direction = np.reshape(coarse.image.GetDirection(), (3, 3)) * coarse.image.GetSpacing()
    points = index @ direction.T + coarse.image.GetOrigin()
    middle = points.mean(axis=0)
    axes = np.linalg.eigh((points - middle).T @ (points - middle))[1]
    return middle, axes
