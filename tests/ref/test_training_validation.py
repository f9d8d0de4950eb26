from dataclasses import replace

import pytest
import torch

from rwcnet_ref.config import TINY
from rwcnet_ref.grid import identity
from rwcnet_ref.pair import Pair
from rwcnet_ref.pairs import SyntheticSource
from rwcnet_ref.training.step import NotFiniteError
from rwcnet_ref.training.validation import choose, validate


def draw(size=12):
    return SyntheticSource((size,) * 3, 1, 2.0).draw(torch.Generator().manual_seed(0))


class Found:
    """A cascade that finds what it is told."""

    def __init__(self, flow):
        self.flow = flow

    def totals(self, fixed, moving, finest):
        yield self.flow, None


def measure(flow, pair, weights=None):
    return validate(Found(flow), 0, [pair], weights or {"mse": 1.0})


def test_the_truth_has_no_error():
    pair = draw()
    values = measure(pair.flow, pair, {"dice": 2.0})
    assert values["error"] == pytest.approx(0, abs=0.011)  # voxels
    assert values["error_start"] == pytest.approx(
        float(pair.flow.square().sum(1).sqrt().mean()), abs=0.011
    )
    assert values["dice"] > values["dice_start"] + 0.05
    assert values["validation_loss"] == pytest.approx(2 * (1 - values["dice"]), abs=1e-6)


def test_no_flow_ends_where_it_starts():
    pair = draw()
    values = measure(torch.zeros_like(pair.flow), pair)
    for name in ("error", "dice"):
        assert values[name] == values[f"{name}_start"]
    assert values["folded_percent"] == 0
    assert values["sdlogj"] == pytest.approx(0, abs=1e-6)


def test_target_error_is_in_mm():
    edges = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    points = torch.tensor([[2.0, 3.0, 4.0], [5.0, 5.0, 5.0]])
    image = torch.rand((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    pair = Pair(
        fixed=image,
        moving=image,
        mm_from_voxel=edges,
        fixed_points=points,
        moving_points=points + torch.tensor([0.0, 1.0, 1.0]),
    )
    flow = torch.zeros((1, 3, 8, 8, 8))
    flow[:, 1] = 1  # what is left is one voxel along k
    values = measure(flow, pair)
    assert values["tre_mm_start"] == pytest.approx(13**0.5, abs=1e-3)  # mm
    assert values["tre_mm"] == pytest.approx(3, abs=1e-3)  # mm
    assert "error" not in values
    assert "dice" not in values
    # A pair whose points are all outside says nothing, least of all 0 mm.
    outside = replace(pair, fixed_points=points + 20)
    both = validate(Found(flow), 0, [pair, outside], {"mse": 1.0})
    assert (both["tre_mm"], both["tre_mm_start"]) == (values["tre_mm"], values["tre_mm_start"])
    assert "tre_mm" not in measure(flow, outside)


def test_folds_are_counted():
    pair = draw()
    flow = torch.zeros_like(pair.flow)
    flow[:, 0] = -2 * identity(flow)[:, 0]  # a mirror along i
    assert measure(flow, pair)["folded_percent"] == 100


def test_means_are_over_the_pairs_that_have_a_measure(lively):
    cascade, pair = lively(TINY), draw()
    first = validate(cascade, 2, [pair], {"dice": 1.0})
    both = validate(cascade, 2, [pair, replace(pair, flow=None)], {"dice": 1.0})
    assert both["error"] == first["error"]
    assert both["dice"] == pytest.approx(first["dice"], abs=1e-6)


def test_validation_is_what_inference_does(lively):
    cascade, pair = lively(TINY), draw()
    flow = cascade(pair.fixed, pair.moving)
    assert validate(cascade, 2, [pair], {"mse": 1.0}) == measure(flow, pair)


@pytest.mark.parametrize(
    ("metrics", "best", "expected"),
    [
        ({"error": 2.0, "dice": 0.5}, None, ("error", 2.0)),
        ({"dice": 0.5, "tre_mm": 3.0}, None, ("dice", -0.5)),
        ({"dice": 0.5, "tre_mm": 3.0}, "tre_mm", ("tre_mm", 3.0)),
        ({"validation_loss": 4.0, "sdlogj": 1.0}, None, ("validation_loss", 4.0)),
    ],
)
def test_less_is_better_in_what_chooses(metrics, best, expected):
    assert choose(metrics, best) == expected


def test_a_pair_without_structures_has_no_dice():
    pair = draw()
    nothing = torch.zeros_like(pair.fixed_labels)
    empty = replace(pair, fixed_labels=nothing, moving_labels=nothing)
    alone = measure(pair.flow, pair)
    both = validate(Found(pair.flow), 0, [pair, empty], {"mse": 1.0})
    assert (both["dice"], both["dice_start"]) == (alone["dice"], alone["dice_start"])
    assert "dice" not in measure(pair.flow, empty)


def test_a_flow_that_is_no_number_is_no_perfect_one():
    pair = draw()
    with pytest.raises(NotFiniteError, match="a validation pair is no number at stage 1"):
        measure(pair.flow * torch.nan, pair)
