"""How good a stage is on pairs that it is not trained on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from rwcnet_ref.losses import LOSSES, Prediction
from rwcnet_ref.model import Cascade
from rwcnet_ref.pair import Pair
from rwcnet_ref.training.step import NotFiniteError, pair_loss
from rwcnet_runtime.evaluation.deformation import folded_percent, sd_log_jacobian
from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant

# A loss that is a measure, and the measure's name.
_MEASURES = {"error": "error", "dice": "dice", "keypoints": "tre_mm"}


@torch.no_grad()
def validate(
    cascade: Cascade, index: int, pairs: Iterable[Pair], weights: Mapping[str, float]
) -> dict[str, float]:
    """Run the cascade up to stage `index` as inference does, and measure on that stage's grid.

    Parameters
    ----------
    cascade
        In evaluation mode.
    index
        The last stage to run.
    pairs
        At that stage's resolution.
    weights
        Losses of `validation_loss`.

    Returns
    -------
    dict
        Means over the pairs that have what a measure needs: `error` to the known displacement in
        voxels of the stage, `dice` over structures (soft: on a coarse grid they fill shares of a
        voxel), `tre_mm` over keypoints, each also before registration (`_start`); then
        `folded_percent`, `sdlogj` and `validation_loss`.

    Raises
    ------
    NotFiniteError
        If a flow is no number, which some measures would take for a perfect one.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        *_, (flow, _) = cascade.totals(pair.fixed, pair.moving, index)
        if not flow.isfinite().all():
            raise NotFiniteError(
                f"the flow of a validation pair is no number at stage {index + 1}: lower the "
                "learning rate or set training.clip, in a new folder"
            )
        found = _whole(pair, flow)
        for end, prediction in (("_start", still(pair)), ("", found)):
            for name, value in measures(prediction).items():
                values[name + end].append(value)
        # In voxels: the determinant does not depend on the grid's edges.
        i, j, k = flow.shape[2:]
        determinant = jacobian_determinant(
            flow[0].movedim(0, -1).cpu().numpy(), ImageGrid((i, j, k), np.eye(4))
        )
        values["folded_percent"].append(folded_percent(determinant))
        spread = sd_log_jacobian(determinant)
        if math.isfinite(spread):  # else the grid is all border
            values["sdlogj"].append(spread)
        values["validation_loss"].append(float(pair_loss([found], weights, 1.0)[0]))
    return {name: sum(of) / len(of) for name, of in values.items()}


def measures(prediction: Prediction) -> dict[str, float]:
    """Return error, dice and tre_mm of a whole pair, as far as it has what they need.

    Dice needs a structure of more than a voxel in the fixed image, and tre_mm a keypoint inside the
    grid: whatever moves, the same pairs count.
    """
    labels, keypoints = prediction.pair.fixed_labels, prediction.keypoints
    empty = {
        "dice": labels is not None and not (labels.sum((2, 3, 4)) > 1).any(),
        "keypoints": keypoints is not None and not len(keypoints[0]),
    }
    found = {}
    for loss, name in _MEASURES.items():
        value = None if empty.get(loss) else LOSSES[loss](prediction)
        if value is not None:
            found[name] = float(1 - value if loss == "dice" else value)
    return found


def _whole(pair: Pair, flow: Tensor) -> Prediction:
    i, j, k = (slice(0, n) for n in flow.shape[2:])
    return Prediction(pair, flow, (i, j, k))


def still(pair: Pair) -> Prediction:
    """Return the prediction that nothing moves."""
    return _whole(pair, pair.fixed.new_zeros((1, 3, *pair.fixed.shape[2:])))


def choose(metrics: Mapping[str, float], best: str | None) -> tuple[str, float]:
    """Return the measure that chooses the best weights, and its value so that less is better.

    Parameters
    ----------
    metrics
        From `validate`.
    best
        One of them; None for the first of error, dice, tre_mm and validation_loss that is there.

    Raises
    ------
    KeyError
        If `best` is not there.
    """
    name = best or next(n for n in (*_MEASURES.values(), "validation_loss") if n in metrics)
    return name, -metrics[name] if name == "dice" else metrics[name]
