"""What is known about a pair of a cases file, held against flows between its images."""

from __future__ import annotations

from rwcnet_runtime import evaluation
from rwcnet_runtime.backends.interface import Array
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.preprocess import Padding
from rwcnet_runtime.volumes import read_volume

MEASURES = ("dice_after", "tre_mm_after")
"""What `rwcnet_runtime.evaluation.measure` calls the measures of accuracy."""


class Truth:
    """Measures flows on the padded grid of a case, whose files are read once."""

    def __init__(self, case: evaluation.Case, multiple: int) -> None:
        self._case = case
        self._fixed, self._moving = read_volume(case.fixed), read_volume(case.moving)
        initial = case.initial_transform
        self._initial = None if initial is None else read_initial_transform(initial)
        self._padding = Padding.to_multiple(self._fixed.grid.shape, multiple)

    def accuracy(self, flow: Array) -> dict[str, float]:
        """Measure a flow.

        Parameters
        ----------
        flow
            (1, 3, i, j, k) float32 in voxels.

        Returns
        -------
        dict
            Of `MEASURES` those that the case has the truth for.

        Raises
        ------
        InputError
            If a file of the truth cannot be used.
        """
        inner = self._padding.remove(flow[0])
        mapping = Mapping(self._fixed.grid, self._moving.grid, self._initial, inner)
        displacement_mm = mapping.displacement_mm()
        found = evaluation.measure(self._case, self._fixed, self._moving, displacement_mm)
        return {name: found[name] for name in MEASURES if name in found}
