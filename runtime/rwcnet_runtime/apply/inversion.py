"""Invert a map of space point by point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

TOLERANCE_MM = 0.01

_ITERATIONS = 40
_DIFFERENCE_MM = 0.05
_FIRST_DAMPING = 1e-4

Points = NDArray[np.float64]


def solve(
    forward: Callable[[Points], Points], targets: Points, start: Points
) -> tuple[Points, NDArray[np.float64]]:
    """Find the points that a map brings to given targets.

    Levenberg-Marquardt for each point on its own (Nocedal and Wright, Numerical Optimization, 2006,
    section 10.3), with a Jacobian of differences. The fixed-point iteration x <- y - d(x) that is
    usual for displacement fields diverges where the map turns or shears strongly, as a field does
    that contains the alignment of two scanners; this does not, and needs two or three iterations.

    Parameters
    ----------
    forward : callable
        From points (n, 3) to points (n, 3), each independent of the others.
    targets, start : ndarray, (n, 3), float64
        In mm; `start` is a first guess of the solution.

    Returns
    -------
    solution : ndarray, (n, 3), float64
    residual_mm : ndarray, (n,), float64
        Distance from ``forward(solution)`` to the target. Above `TOLERANCE_MM` where there is no
        solution, or only one behind a fold.
    """
    solution = start.copy()
    misses = forward(solution) - targets
    residual = np.linalg.norm(misses, axis=1)
    damping = np.full(len(targets), _FIRST_DAMPING)
    for _ in range(_ITERATIONS):
        active = np.flatnonzero(residual > TOLERANCE_MM)
        if not active.size:
            break
        x, miss = solution[active], misses[active]
        jacobian = _jacobian(forward, x, miss + targets[active])
        transposed = jacobian.transpose(0, 2, 1)
        normal = transposed @ jacobian + damping[active, None, None] * np.eye(3)
        tried = x - np.linalg.solve(normal, transposed @ miss[..., None])[..., 0]
        new_miss = forward(tried) - targets[active]
        new_residual = np.linalg.norm(new_miss, axis=1)
        better = new_residual < residual[active]
        taken = active[better]
        solution[taken], misses[taken] = tried[better], new_miss[better]
        residual[taken] = new_residual[better]
        damping[active] *= np.where(better, 0.1, 10)
    return solution, residual


def _jacobian(forward: Callable[[Points], Points], x: Points, value: Points) -> NDArray[np.float64]:
    columns = [(forward(x + step) - value) / _DIFFERENCE_MM for step in _DIFFERENCE_MM * np.eye(3)]
    return np.stack(columns, axis=-1)
