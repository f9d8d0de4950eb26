"""What a stage says of a batch, and what that costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rwcnet_ref.losses import Prediction, total_loss
from rwcnet_ref.model import Cascade
from rwcnet_ref.pair import Pair
from rwcnet_ref.patches import Patch
from rwcnet_runtime.errors import InputError


class NotFiniteError(Exception):
    """A loss, its gradient, a flow or a measure is no number; the last checkpoint is kept."""


def seed_of(*position: int) -> int:
    """Return the seed of a position in training, such as (seed, stage, step).

    Every random number of a step follows from its position. So whoever resumes needs weights and a
    step number, no state of any generator, and is exact by construction.
    """
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])


def predict(
    cascade: Cascade,
    index: int,
    pairs: Sequence[Pair],
    random: torch.Generator,
    steps: int | None = None,
) -> list[list[Prediction]]:
    """Unroll stage `index` on pairs of one size, each on one of its patches.

    Parameters
    ----------
    cascade
        Stages below run whole and without gradients.
    index
        The stage, 0 is the coarsest.
    pairs
        At the resolution of the stage.
    random
        Chooses the patch of each pair, where the stage has several.
    steps
        Recurrent steps; the configured number by default.

    Returns
    -------
    list of list of Prediction
        For each pair one a recurrent step, on the part of the grid that its patch answers for.
    """
    fixed = torch.cat([pair.fixed for pair in pairs])
    warped, below, hidden = cascade.entering(
        fixed, torch.cat([pair.moving for pair in pairs]), index
    )
    patches = cascade.patches(index, fixed.shape[2:])
    chosen = [
        patches[int(torch.randint(len(patches), (), generator=random, device=random.device))]
        for _ in pairs
    ]

    def cut(whole: Tensor) -> Tensor:
        return torch.cat([whole[n : n + 1, :, *patch.read] for n, patch in enumerate(chosen)])

    flows, _ = cascade.stage(index).unroll(
        cut(fixed), cut(warped), None if hidden is None else cut(hidden), steps
    )
    predictions = []
    for n, (pair, patch) in enumerate(zip(pairs, chosen, strict=True)):
        one = slice(n, n + 1)
        under = None if below is None else below[one]
        i, j, k = patch.own
        predictions.append(
            [
                Prediction(
                    pair, _total(cascade, flow[one, :, *patch.inner], under, patch), (i, j, k)
                )
                for flow in flows
            ]
        )
    return predictions


def _total(cascade: Cascade, flow: Tensor, below: Tensor | None, patch: Patch) -> Tensor:
    """Compose the flow of a patch with the flow below, which it may need from anywhere."""
    if below is None:
        return flow
    # On the whole grid, so that training and inference compose by one rule.
    whole = torch.zeros_like(below)
    whole[:, :, *patch.own] = flow
    return cascade.compose(whole, below)[:, :, *patch.own]


def pair_loss(
    predictions: list[Prediction], weights: Mapping[str, float], decay: float
) -> tuple[Tensor, dict[str, float]]:
    """Return what `total_loss` does; `InputError` if the losses do not suit the pair."""
    try:
        return total_loss(predictions, weights, decay)
    except ValueError as error:
        raise InputError(f"the losses do not suit the data: {error}") from error


def batch_loss(
    cascade: Cascade,
    index: int,
    pairs: Sequence[Pair],
    random: torch.Generator,
    weights: Mapping[str, float],
    decay: float,
    steps: int | None = None,
) -> Tensor:
    """Return the mean loss of pairs, see `predict` and `pair_loss`."""
    losses = [
        pair_loss(predictions, weights, decay)[0]
        for same in _by_size(pairs)
        for predictions in predict(cascade, index, same, random, steps)
    ]
    return torch.stack(losses).mean()


def _by_size(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    sizes = defaultdict(list)
    for pair in pairs:
        sizes[pair.fixed.shape].append(pair)
    yield from sizes.values()
