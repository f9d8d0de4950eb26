"""Count where points went, for the user and for the record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwcnet_runtime.apply.inversion import TOLERANCE_MM
from rwcnet_runtime.apply.steps import Moved


@dataclass
class Tally:
    """Sums over all points of a file.

    Attributes
    ----------
    points, outside, unsolved : int
        All; those that a displacement field does not cover; those for which the way back was not
        found to `TOLERANCE_MM`.
    residual_mm : float
        The largest distance left by the way back.
    """

    points: int = 0
    outside: int = 0
    unsolved: int = 0
    residual_mm: float = 0.0

    def add(self, moved: Moved) -> None:
        """Count some more."""
        self.points += len(moved.points)
        self.outside += int(np.count_nonzero(~moved.covered))
        self.unsolved += int(np.count_nonzero(moved.residual_mm > TOLERANCE_MM))
        self.residual_mm = max(self.residual_mm, float(moved.residual_mm.max(initial=0)))

    def warnings(self) -> list[str]:
        """Return what a user should know, a sentence each."""
        found = []
        if self.outside:
            found.append(
                f"{self.outside} of {self.points} points lie outside of a displacement field; its "
                "border value was used there."
            )
        if self.unsolved:
            found.append(
                f"{self.unsolved} of {self.points} points have no partner to {TOLERANCE_MM} mm on "
                f"the way back (at most {self.residual_mm:.2g} mm are left), as where a field "
                "folds."
            )
        return found
