"""Invert a map of space point by point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

TOLERANCE_MM = 0.01

_CHEAP_ITERATIONS = 15
_ITERATIONS = 40
_DIFFERENCE_MM = 0.05
_FIRST_DAMPING = 1e-4

Points = NDArray[np.float64]


def solve(
    forward: Callable[[Points], Points], targets: Points, start: Points, slope: Points
) -> tuple[Points, NDArray[np.float64]]:
    """Find the points that a map brings to given targets.

    First by a fixed-point iteration, x <- x - A^-1 (f(x) - y) with one matrix A for all points.
    With A = 1 it is the usual one for displacement fields (Chen et al., Med Phys 35:81, 2008),
    which diverges where a field contains a large turn. Points that come no nearer go on by
    Levenberg-Marquardt, each on its own (Nocedal and Wright, Numerical Optimization, 2006, section
    10.3), with a Jacobian of differences.

    Parameters
    ----------
    forward : callable
        From points (n, 3) to points (n, 3), each independent of the others.
    targets, start : ndarray, (n, 3), float64
        In mm; `start` is a first guess of the solution.
    slope : ndarray, (3, 3), float64
        A, roughly the Jacobian of `forward`.

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

    def attempt(active: NDArray[np.intp], step: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Move some points where that brings them nearer; return which of them."""
        tried = solution[active] - step
        miss = forward(tried) - targets[active]
        length = np.linalg.norm(miss, axis=1)
        better = np.asarray(length < residual[active])
        taken = active[better]
        solution[taken], misses[taken] = tried[better], miss[better]
        residual[taken] = length[better]
        return better

    descending, back = np.ones(len(targets), bool), np.linalg.inv(slope).T
    for _ in range(_CHEAP_ITERATIONS):
        active = np.flatnonzero(descending & (residual > TOLERANCE_MM))
        if not active.size:
            break
        descending[active] = attempt(active, misses[active] @ back)
    damping = np.full(len(targets), _FIRST_DAMPING)
    for _ in range(_ITERATIONS):
        active = np.flatnonzero(residual > TOLERANCE_MM)
        if not active.size:
            break
        miss = misses[active]
        jacobian = _jacobian(forward, solution[active], miss + targets[active])
        transposed = jacobian.transpose(0, 2, 1)
        normal = transposed @ jacobian + damping[active, None, None] * np.eye(3)
        step = np.linalg.solve(normal, transposed @ miss[..., None])[..., 0]
        damping[active] *= np.where(attempt(active, step), 0.1, 10)
    return solution, residual


def _jacobian(forward: Callable[[Points], Points], x: Points, value: Points) -> NDArray[np.float64]:
    columns = [(forward(x + step) - value) / _DIFFERENCE_MM for step in _DIFFERENCE_MM * np.eye(3)]
    return np.stack(columns, axis=-1)
