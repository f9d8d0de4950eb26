"""Find h with ``h + g(p + h) = 0`` at many points p, all in voxels of the grid of g."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.transforms.sampling import sample

_FIXED_POINT, _NEWTON = 12, 30
_DIFFERENCE_VOX = 0.1
_FIRST_DAMPING = 1e-3

Points = NDArray[np.float64]
Solved = tuple[Points, NDArray[np.float64]]


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Rest:
    """What is to be inverted.

    Attributes
    ----------
    field : ndarray, (i, j, k, 3), float32
        g, in voxels of its grid; beyond it keeps its border values.
    metric : ndarray, (3, 3), float64
        The length of a miss m is that of ``metric @ m``.
    tolerance : float
        Shorter misses are none.
    """

    field: NDArray[np.float32]
    metric: NDArray[np.float64]
    tolerance: float

    def miss(self, p: Points, h: Points) -> Points:
        """Return ``h + g(p + h)``, (n, 3)."""
        result: Points = h + sample(self.field, p + h)
        return result

    def length(self, miss: Points) -> NDArray[np.float64]:
        """Return how long misses are, (n,)."""
        length: NDArray[np.float64] = np.linalg.norm(miss @ self.metric.T, axis=1)
        return length


def iterate(rest: Rest, p: Points, guess: NDArray[np.floating]) -> Solved:
    """Iterate ``h <- -g(p + h)`` where it brings points closer.

    Chen et al., Med Phys 35:81, 2008, equation 3. It diverges where g changes by more than a voxel
    from voxel to voxel, as where tissue is stretched to twice its length.

    Parameters
    ----------
    rest : Rest
        Holds g.
    p, guess : ndarray, (n, 3)
        Points, and a first h for each.

    Returns
    -------
    h : ndarray, (n, 3), float64
    left : ndarray, (n,), float64
        Length of the miss.
    """
    h = guess.astype(np.float64)
    miss = rest.miss(p, h)
    left = rest.length(miss)
    active = np.flatnonzero(left > rest.tolerance)
    for _ in range(_FIXED_POINT):
        if not active.size:
            break
        tried = h[active] - miss[active]
        new_miss = rest.miss(p[active], tried)
        new_left = rest.length(new_miss)
        better = new_left < left[active]
        active = active[better]
        h[active], miss[active], left[active] = tried[better], new_miss[better], new_left[better]
        active = active[left[active] > rest.tolerance]
    return h, left


def solve(rest: Rest, p: Points, guess: NDArray[np.floating]) -> Solved:
    """Solve by the method of Levenberg and Marquardt, each point on its own.

    Nocedal and Wright, Numerical Optimization, 2006, section 10.3, with a Jacobian of central
    differences. It ends where there is no solution nearby, as beside a fold. Parameters and
    returns are those of `iterate`.
    """
    h = guess.astype(np.float64)
    miss = rest.miss(p, h)
    left = rest.length(miss)
    damping = np.full(len(p), _FIRST_DAMPING)
    for _ in range(_NEWTON):
        active = np.flatnonzero(left > rest.tolerance)
        if not active.size:
            break
        jacobian = np.matmul(rest.metric, _jacobian(rest, p[active], h[active]))
        transposed = jacobian.transpose(0, 2, 1)
        normal = transposed @ jacobian + damping[active, None, None] * np.eye(3)
        downhill = transposed @ (miss[active] @ rest.metric.T)[..., None]
        tried = h[active] - np.linalg.solve(normal, downhill)[..., 0]
        new_miss = rest.miss(p[active], tried)
        new_left = rest.length(new_miss)
        better = new_left < left[active]
        taken = active[better]
        h[taken], miss[taken], left[taken] = tried[better], new_miss[better], new_left[better]
        damping[active] *= np.where(better, 0.1, 10)
    return h, left


def _jacobian(rest: Rest, p: Points, h: Points) -> NDArray[np.float64]:
    """Differentiate the miss by h, (n, 3, 3)."""
    columns = [
        (rest.miss(p, h + edge) - rest.miss(p, h - edge)) / (2 * _DIFFERENCE_VOX)
        for edge in _DIFFERENCE_VOX * np.eye(3)
    ]
    return np.stack(columns, axis=-1)
