"""The losses by name, and their sum over the recurrent steps of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rwcnet_ref.grid import identity, sample
from rwcnet_ref.losses.images import (
    local_ncc,
    mean_squared_error,
    mind_ssc,
    mutual_information,
)
from rwcnet_ref.losses.matches import dice_loss, displacement_error, keypoint_distance
from rwcnet_ref.losses.smoothness import (
    bending_energy,
    gradient_penalty,
    negative_jacobian_penalty,
)
from rwcnet_ref.pair import Pair


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one recurrent step says of a pair, on the pair's grid or a patch of it.

    Attributes
    ----------
    pair
        The whole pair.
    flow
        (1, 3, x, y, z), the total flow on the patch, in voxels.
    place
        Where the patch lies in the pair's grid, as slices (start, stop) along (i, j, k).
    """

    pair: Pair
    flow: Tensor
    place: tuple[slice, slice, slice]

    @cached_property
    def points(self) -> Tensor:
        """Where the flow leads, (1, 3, x, y, z), as voxel indices of the pair's grid."""
        return identity(self.flow) + self._start.view(1, 3, 1, 1, 1) + self.flow

    @cached_property
    def fixed(self) -> Tensor:
        """Fixed image on the patch."""
        return self._cut(self.pair.fixed)

    @cached_property
    def warped(self) -> Tensor:
        """Moving image on the patch; tissue may come from anywhere in the whole image."""
        return sample(self.pair.moving, self.points)

    @cached_property
    def mask(self) -> Tensor | None:
        """Fixed mask on the patch."""
        return None if self.pair.fixed_mask is None else self._cut(self.pair.fixed_mask)

    @cached_property
    def truth(self) -> Tensor | None:
        """True displacement on the patch."""
        return None if self.pair.flow is None else self._cut(self.pair.flow)

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor] | None:
        """Fixed and warped moving structures on the patch, (1, c, x, y, z) each."""
        if self.pair.fixed_labels is None or self.pair.moving_labels is None:
            return None
        return self._cut(self.pair.fixed_labels), sample(self.pair.moving_labels, self.points)

    @cached_property
    def keypoints(self) -> tuple[Tensor, Tensor] | None:
        """Fixed points inside the patch and their partners, (n, 3) voxel indices of the patch."""
        if self.pair.fixed_points is None or self.pair.moving_points is None:
            return None
        fixed, moving = self.pair.fixed_points - self._start, self.pair.moving_points - self._start
        last = torch.tensor(self.flow.shape[2:], device=fixed.device) - 1
        inside = ((fixed >= 0) & (fixed <= last)).all(1)
        return fixed[inside], moving[inside]

    @property
    def _start(self) -> Tensor:
        starts = [axis.start for axis in self.place]
        return torch.tensor(starts, dtype=self.flow.dtype, device=self.flow.device)

    def _cut(self, whole: Tensor) -> Tensor:
        return whole[:, :, *self.place]


def _dice(prediction: Prediction) -> Tensor | None:
    if prediction.labels is None:
        return None
    fixed, warped = prediction.labels
    return dice_loss(warped, fixed)


def _keypoints(prediction: Prediction) -> Tensor | None:
    if prediction.keypoints is None:
        return None
    return keypoint_distance(prediction.flow, *prediction.keypoints, prediction.pair.mm_from_voxel)


def _error(prediction: Prediction) -> Tensor | None:
    return (
        None if prediction.truth is None else displacement_error(prediction.flow, prediction.truth)
    )


LOSSES: Mapping[str, Callable[[Prediction], Tensor | None]] = {
    "mse": lambda p: mean_squared_error(p.fixed, p.warped, p.mask),
    "ncc": lambda p: local_ncc(p.fixed, p.warped, p.mask),
    "mi": lambda p: mutual_information(p.fixed, p.warped, p.mask),
    "mind": lambda p: mind_ssc(p.fixed, p.warped, p.mask),
    "dice": _dice,
    "keypoints": _keypoints,
    "error": _error,
    "gradient": lambda p: gradient_penalty(p.flow),
    "bending": lambda p: bending_energy(p.flow),
    "folds": lambda p: negative_jacobian_penalty(p.flow),
}
"""Losses by their name in settings; None where the pair lacks what a loss needs."""

REGULARISERS = frozenset({"gradient", "bending", "folds"})
"""A pair that only these can judge teaches nothing but to stand still."""

_NEEDS = {
    "dice": "label maps of both images",
    "keypoints": "keypoints of both images",
    "error": "a known displacement",
}


def total_loss(
    predictions: list[Prediction], weights: Mapping[str, float], decay: float
) -> tuple[Tensor, dict[str, float]]:
    """Weigh the losses of all recurrent steps of one pair.

    Parameters
    ----------
    predictions
        One a recurrent step, in order.
    weights
        Weight by name, see `LOSSES`. A loss that a pair cannot give is left out for that pair.
    decay
        Weight of a step relative to the step after it, 0..1. The weights of the steps are divided
        by their sum; 0 leaves the last step alone.

    Returns
    -------
    loss
        Scalar, to be differentiated.
    values
        Each loss of the last step, not weighted.

    Raises
    ------
    ValueError
        If a name is unknown, or the pair has nothing that any loss but regularisers could judge.
    """
    unknown = sorted(weights.keys() - LOSSES.keys())
    if unknown:
        raise ValueError(f"no loss is called {', '.join(unknown)}; there are {', '.join(LOSSES)}")
    shares = [decay ** (len(predictions) - 1 - n) for n in range(len(predictions))]
    total = predictions[-1].flow.new_zeros(())
    values: dict[str, float] = {}
    # Sums over whole images and coordinates in mm: nothing for half precision.
    with torch.autocast(total.device.type, enabled=False):
        for name, weight in weights.items():
            for prediction, share in zip(predictions, shares, strict=True):
                # A weight of 0, as early in training, costs nothing.
                value = LOSSES[name](prediction) if weight and share else None
                if value is not None:
                    total = total + weight * share / sum(shares) * value
            if value is not None:
                values[name] = float(value.detach())
    if not values.keys() - REGULARISERS:
        counting = [name for name, weight in weights.items() if weight]
        judges = [name for name in counting if name not in REGULARISERS]
        missing = " or ".join(_NEEDS[name] for name in judges if name in _NEEDS)
        if missing:
            raise ValueError(
                f"none of the losses {', '.join(judges)} can judge a pair without {missing}; add "
                "one of mse, ncc, mi or mind, or other data"
            )
        if counting:
            raise ValueError(
                "only regularisers count, which no match could lower; add another loss"
            )
        raise ValueError("no loss counts, so nothing judges a match; add one")
    return total, values
