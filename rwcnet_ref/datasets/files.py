"""Reading the files of cases, and remembering what was read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import is_same_grid
from rwcnet_runtime.preprocess import normalise
from rwcnet_runtime.volumes import Volume, read_labels, read_volume


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Structures:
    """A label map with its labels counted through, which makes it small and quick to look up.

    Attributes
    ----------
    labels : ndarray, (n,), int
        Ascending; the first is 0, the background.
    data : ndarray, (i, j, k), unsigned
        Indices into `labels`.
    """

    labels: NDArray[np.integer[Any]]
    data: NDArray[np.unsignedinteger[Any]]


class _Kept(Protocol):
    @property
    def data(self) -> Any: ...  # something with nbytes: an array, or the buffer of one


T = TypeVar("T", bound=_Kept)


class Files:
    """Reads images and label maps; keeps those used last, since unpacking one takes seconds.

    Parameters
    ----------
    intensity
        Range of the files that becomes 0..1; None scales each image by its percentiles. Both as
        inference does, see `normalise`: what lies beyond a fixed range is not clipped.
    budget_gb
        Memory for what is kept.

    Raises
    ------
    InputError
        If the range is empty.
    """

    def __init__(
        self, intensity: tuple[float, float] | None = None, budget_gb: float = 4.0
    ) -> None:
        if intensity is not None and intensity[0] >= intensity[1]:
            raise InputError(
                f"the intensity range {list(intensity)} is empty; give the lower bound first."
            )
        self._intensity = intensity
        self._budget = budget_gb * 1e9  # bytes
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def image(self, path: Path) -> Volume:
        """Read an image and scale its intensities.

        Raises
        ------
        InputError
            As `read_volume` and `normalise` do.
        """
        return self.keep(path, lambda: self._scaled(read_volume(path)))

    def structures(self, path: Path, image: Volume) -> Structures:
        """Read the label map or mask of an image.

        Raises
        ------
        InputError
            As `read_labels` does, or if the map does not lie on the image's grid.
        """

        def read() -> Structures:
            found = read_labels(path)
            if not is_same_grid(found.grid, image.grid):
                raise InputError(
                    f"{path} does not lie on the grid of {image.path}; resample it by nearest "
                    "neighbour."
                )
            # The 0 in front makes 0 the first label, whether it is there or not.
            labels, data = np.unique(np.append(0, found.data), return_inverse=True)
            small = data[1:].astype(np.min_scalar_type(len(labels)))
            return Structures(labels, small.reshape(found.data.shape))

        return self.keep((path, image.path), read)

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is kept under a key; or make it, and forget what was used longest ago."""
        found: T = self._kept.pop(key) if key in self._kept else make()
        self._kept[key] = found
        held = sum(kept.data.nbytes for kept in self._kept.values())
        while held > self._budget:
            held -= self._kept.popitem(last=False)[1].data.nbytes
        return found

    def _scaled(self, volume: Volume) -> Volume:
        try:
            return replace(volume, data=normalise(volume.data, self._intensity))
        except InputError as error:
            raise InputError(f"{volume.path}: {error}") from error
