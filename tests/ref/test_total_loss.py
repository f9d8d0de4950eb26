import itertools

import pytest
import torch

from rwcnet_ref.deformation import smooth_noise
from rwcnet_ref.grid import Warp, identity
from rwcnet_ref.losses import LOSSES, Prediction, displacement_error, total_loss
from rwcnet_ref.pair import Pair

SIZE = (14, 12, 10)
WHOLE = tuple(slice(0, n) for n in SIZE)
JUDGES = sorted(set(LOSSES) - {"gradient", "bending", "folds"})
warp = Warp()


def blob(centre, size=SIZE, radius=2.5):
    from_centre = identity(torch.zeros(1, 3, *size)) - torch.tensor(centre).view(1, 3, 1, 1, 1)
    return (-0.5 * from_centre.square().sum(1, keepdim=True) / radius**2).exp()


@pytest.fixture
def pair():
    """Return a blob that lies 2 voxels further along i in the moving image, with all truths."""
    fixed, moving = blob((6.0, 6.0, 5.0)), blob((8.0, 6.0, 5.0))
    return Pair(
        fixed=fixed,
        moving=moving,
        mm_from_voxel=torch.diag(torch.tensor([1.0, 1.5, 2.0])),
        flow=torch.tensor([2.0, 0, 0]).view(1, 3, 1, 1, 1).expand(1, 3, *SIZE).contiguous(),
        fixed_labels=torch.cat([fixed, 1 - fixed], 1),
        moving_labels=torch.cat([moving, 1 - moving], 1),
        fixed_mask=(fixed > 0.1).float(),
        fixed_points=torch.tensor([[6.0, 6.0, 5.0], [2.0, 3.0, 8.0]]),
        moving_points=torch.tensor([[8.0, 6.0, 5.0], [4.0, 3.0, 8.0]]),
    )


def bare(pair):
    return Pair(fixed=pair.fixed, moving=pair.moving, mm_from_voxel=pair.mm_from_voxel)


def whole(pair, flow=None):
    return Prediction(pair, torch.zeros(1, 3, *SIZE) if flow is None else flow, WHOLE)


@pytest.mark.parametrize("name", JUDGES)
def test_a_step_against_the_gradient_is_a_step_towards_the_truth(name, pair):
    shift = torch.zeros(3, requires_grad=True)

    def loss():
        return LOSSES[name](whole(pair, shift.view(1, 3, 1, 1, 1).expand(1, 3, *SIZE)))

    before = loss()
    before.backward()
    step = -shift.grad / shift.grad.norm()
    assert step[0] > 0.9  # the truth is along i, to higher indices
    with torch.no_grad():
        shift += 0.3 * step
    assert loss() < before


@pytest.mark.parametrize("name", JUDGES)
def test_the_truth_is_judged_better_than_standing_still(name, pair):
    assert LOSSES[name](whole(pair, pair.flow)) < LOSSES[name](whole(pair)) - 1e-3


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_are_scalars_with_a_gradient(name, pair, random):
    flow = (3 * torch.randn((1, 3, *SIZE), generator=random)).requires_grad_()
    value = LOSSES[name](whole(pair, flow))
    value.backward()
    assert value.shape == ()
    assert 0 < flow.grad.norm() < 1000


def test_a_patch_is_the_whole_restricted(pair, random):
    flow = smooth_noise(SIZE, 3, 4.0, random)
    place = (slice(3, 10), slice(0, 7), slice(4, 10))
    patch = Prediction(pair, flow[:, :, *place], place)
    everything = whole(pair, flow)
    for name in ("points", "fixed", "warped", "mask", "truth"):
        expected = getattr(everything, name)[:, :, *place]
        torch.testing.assert_close(getattr(patch, name), expected, rtol=0, atol=1e-5)
    for found, expected in zip(patch.labels, everything.labels, strict=True):
        torch.testing.assert_close(found, expected[:, :, *place], rtol=0, atol=1e-5)
    torch.testing.assert_close(everything.warped, warp(pair.moving, flow), rtol=0, atol=1e-5)


def test_tissue_from_outside_the_patch_is_warped_into_it(pair):
    # The blob of the moving image lies about index 8, outside the patch.
    place = (slice(4, 8), slice(2, 10), slice(0, 10))
    patch = Prediction(pair, pair.flow[:, :, *place], place)
    torch.testing.assert_close(patch.warped, patch.fixed, rtol=0, atol=1e-5)
    assert LOSSES["keypoints"](patch) < 0.02  # mm: the point at (6, 6, 5) and its partner outside


def test_keypoints_are_shared_out_among_patches(pair):
    halves = [(slice(first, last), *WHOLE[1:]) for first, last in ((0, 5), (5, 14))]
    found = [Prediction(pair, torch.zeros(1, 3, *SIZE)[:, :, *p], p).keypoints for p in halves]
    assert [fixed.tolist() for fixed, _ in found] == [[[2, 3, 8]], [[1, 6, 5]]]
    assert [moving.tolist() for _, moving in found] == [[[4, 3, 8]], [[3, 6, 5]]]


def test_steps_are_weighted_by_a_decay(pair):
    flows = [share * pair.flow for share in (0.0, 0.5, 1.0)]
    loss, values = total_loss([whole(pair, flow) for flow in flows], {"error": 3.0}, 0.5)
    errors = [displacement_error(flow, pair.flow) for flow in flows]
    expected = 3 * (0.25 * errors[0] + 0.5 * errors[1] + errors[2]) / 1.75
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)  # voxels
    assert values == {"error": pytest.approx(float(errors[-1]), abs=1e-6)}
    last, _ = total_loss([whole(pair, flow) for flow in flows], {"error": 3.0}, 0.0)
    torch.testing.assert_close(last, 3 * errors[-1], rtol=0, atol=1e-6)


def test_the_total_is_the_weighted_sum_of_all_that_can_be_judged(pair, random):
    prediction = whole(pair, smooth_noise(SIZE, 3, 4.0, random))
    weights = dict(zip(LOSSES, (0.5 + n for n in itertools.count()), strict=False))
    loss, values = total_loss([prediction], weights, 0.8)
    expected = sum(weight * LOSSES[name](prediction) for name, weight in weights.items())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert list(values) == list(LOSSES)
    _, values = total_loss([Prediction(bare(pair), prediction.flow, WHOLE)], weights, 0.8)
    assert list(values) == [n for n in LOSSES if n not in ("dice", "keypoints", "error")]


def test_a_weight_of_zero_costs_nothing(pair):
    _, values = total_loss([whole(pair)], {"mse": 1.0, "dice": 0.0}, 0.8)
    assert list(values) == ["mse"]


def test_half_precision_does_not_reach_the_losses(pair, random):
    flow = smooth_noise(SIZE, 3, 4.0, random)
    weights = dict.fromkeys(LOSSES, 1.0)
    expected, _ = total_loss([whole(pair, flow)], weights, 0.8)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = total_loss([whole(pair, flow)], weights, 0.8)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"dice": 1.0, "gradient": 1.0}, "without label maps of both images"),
        ({"error": 1.0, "keypoints": 1.0}, "a known displacement or keypoints of both images"),
        ({"mse": 0.0, "dice": 1.0}, "none of the losses dice can judge a pair without label maps"),
        ({"gradient": 1.0}, "only regularisers"),
        ({"mse": 0.0, "gradient": 1.0}, "only regularisers count"),
        ({"mse": 0.0}, "no loss counts, so nothing judges a match"),
        ({}, "no loss counts, so nothing judges a match"),
        ({"mea": 1.0}, "no loss is called mea"),
    ],
    ids=str,
)
def test_a_pair_that_nothing_can_judge_is_refused(weights, message, pair):
    with pytest.raises(ValueError, match=message):
        total_loss([whole(bare(pair))], weights, 0.8)


def test_pairs_move_to_a_device_with_all_they_have(pair):
    moved = bare(pair).to("meta")
    assert moved.fixed.is_meta
    assert moved.mm_from_voxel.is_meta
    assert moved.flow is None
