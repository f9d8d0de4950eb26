"""What happens to an image between its file and the network."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError

# Recorded in a bundle's manifest: what `normalise` does, without a fixed range and with one.
PERCENTILES = "percentiles 0.5 and 99.5 of the voxels above the minimum to 0 and 1"
FIXED_RANGE = "the ends of intensity_range to 0 and 1, not clipped"


def normalise(
    data: NDArray[np.float32], fixed_range: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Scale intensities linearly to [0, 1], robust to outliers.

    The lowest intensity of an image is taken for background. 0 and 1 are put at the percentiles
    0.5 and 99.5 of the voxels above it, so that the share of background does not matter.

    Parameters
    ----------
    data : ndarray, any shape, float32
        Finite intensities in any unit.
    fixed_range
        Put 0 and 1 at these intensities of every image instead, as the published models want it.

    Returns
    -------
    ndarray, same shape, float32
        ``clip((data - lo) / (hi - lo), 0, 1)``, with a fixed range not clipped.

    Raises
    ------
    InputError
        If the two percentiles are equal, as in a mask.
    """
    if fixed_range is not None:
        lowest, highest = fixed_range
        return (data - lowest) / (highest - lowest)
    foreground = data[data > data.min()]
    # Python floats, which leave the arithmetic below in float32.
    lo, hi = map(float, np.percentile(foreground, (0.5, 99.5))) if foreground.size else (0.0, 0.0)
    if hi <= lo:
        raise InputError(
            "The image has (almost) one intensity above its background, wanted a range; "
            "give a grey-scale image and no mask."
        )
    normalised: NDArray[np.float32] = data - lo
    normalised /= hi - lo  # in place, as a large CT is 0.3 GB
    return np.clip(normalised, 0, 1, out=normalised)


@dataclass(frozen=True)
class Padding:
    """Zeros around the last three axes of an array, and their removal.

    Attributes
    ----------
    before, after : tuple of int
        Voxels added at the front and at the end of the axes (i, j, k).
    """

    before: tuple[int, int, int]
    after: tuple[int, int, int]

    @classmethod
    def to_multiple(cls, shape: tuple[int, int, int], multiple: int) -> Self:
        """Pad each axis of `shape` to a multiple, evenly; an odd voxel goes to the end.

        At least to twice the multiple: at the coarsest resolution, where `multiple` voxels become
        one, sampling between voxels needs two.
        """
        i, j, k = (max(-size % multiple, 2 * multiple - size) for size in shape)
        return cls((i // 2, j // 2, k // 2), (i - i // 2, j - j // 2, k - k // 2))

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Pad an array, (..., i, j, k)."""
        leading = [(0, 0)] * (array.ndim - 3)
        return np.pad(array, [*leading, *zip(self.before, self.after, strict=True)])

    def remove(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cut a padded array, (..., i, j, k), back to what `apply` was given."""
        sizes = zip(self.before, array.shape[-3:], self.after, strict=True)
        i, j, k = (slice(before, size - after) for before, size, after in sizes)
        return array[..., i, j, k]
