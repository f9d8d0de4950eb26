import itertools

import numpy as np
import pytest
import torch

from rwcnet_ref.deformation import smooth_noise
from rwcnet_ref.losses import (
    local_ncc,
    mean_squared_error,
    mind_ssc,
    mind_ssc_descriptor,
    mutual_information,
)

SIZE = (12, 11, 10)
LOSSES = [mean_squared_error, local_ncc, mutual_information, mind_ssc]


@pytest.fixture
def images(random):
    """Return two images (1, 1, i, j, k) within 0..1 that are somewhat alike."""
    noise = smooth_noise(SIZE, 3, 4.0, random)
    fixed, other = noise[:, :1], noise[:, :1].square() + noise[:, 1:2]
    return [(x - x.min()) / (x.max() - x.min()) for x in (fixed, other)]


def ncc_by_windows(fixed, warped):
    """One minus the squared correlation of every window, one window at a time."""
    found = []
    for place in np.ndindex(fixed.shape):
        window = tuple(slice(max(0, n - 4), n + 5) for n in place)
        found.append(np.corrcoef(fixed[window].ravel(), warped[window].ravel())[0, 1] ** 2)
    return 1 - np.mean(found)


def test_local_ncc_is_the_correlation_of_every_window(images):
    fixed, warped = (x[0, 0].double().numpy() for x in images)
    expected = torch.tensor(ncc_by_windows(fixed, warped), dtype=torch.float32)
    torch.testing.assert_close(local_ncc(*images), expected, rtol=0, atol=1e-4)


def mi_by_bins(fixed, warped):
    """Mutual information with Gaussian Parzen windows, from its definition."""
    centres = np.arange(32) / 31

    def shares(values):
        weights = np.exp(-0.5 * ((values.ravel()[:, None] - centres) * 31 / 0.5) ** 2)
        return weights / weights.sum(1, keepdims=True)

    joint = np.einsum("na,nb->ab", shares(fixed), shares(warped)) / fixed.size
    apart = np.outer(joint.sum(1), joint.sum(0))
    return np.sum(joint[joint > 0] * np.log(joint[joint > 0] / apart[joint > 0]))


def test_mutual_information_follows_its_definition(images):
    fixed, warped = (x[0, 0].double().numpy() for x in images)
    expected = torch.tensor(-mi_by_bins(fixed, warped), dtype=torch.float32)
    torch.testing.assert_close(mutual_information(*images), expected, rtol=0, atol=1e-4)  # nats


def test_mutual_information_of_two_halves_is_one_bit():
    fixed = torch.zeros(1, 1, 8, 8, 8)
    fixed[:, :, :4] = 1
    # 0 and 1 are centres of bins; a tenth of each falls into the bins beside them.
    found = mutual_information(fixed, 1 - fixed)
    torch.testing.assert_close(found, -torch.tensor(2.0).log(), rtol=0, atol=1e-3)  # nats
    independent = fixed.transpose(2, 3)
    assert abs(mutual_information(fixed, independent)) < 1e-5


def mind_at(image, place):
    """Return the descriptor of one voxel well inside an image, without limits on the variance."""

    def patch(centre):
        return image[tuple(slice(n - 1, n + 2) for n in centre)]

    axes = 2 * np.eye(3, dtype=int)
    # Of two axes p < q: p with q and with -q, then of both pairs the mirrored ones, -q with -p.
    pairs = [(p, sign * q) for p, q in itertools.combinations(axes, 2) for sign in (1, -1)]
    pairs += [(-b, -a) for a, b in pairs]
    distances = np.array([np.mean((patch(place + a) - patch(place + b)) ** 2) for a, b in pairs])
    return np.exp(-(distances - distances.min()) / distances.mean())


def test_mind_ssc_follows_its_definition(images):
    fixed = images[0]
    descriptor = mind_ssc_descriptor(fixed)
    assert descriptor.shape == (1, 12, *SIZE)
    for place in np.array([[4, 4, 4], [6, 5, 5], [5, 7, 6]]):
        expected = torch.from_numpy(mind_at(fixed[0, 0].double().numpy(), place)).float()
        torch.testing.assert_close(descriptor[0, :, *place], expected, rtol=0, atol=1e-4)


def test_mind_ssc_is_the_mean_square_of_the_difference(images):
    a, b = (mind_ssc_descriptor(image) for image in images)
    torch.testing.assert_close(mind_ssc(*images), (a - b).square().mean(), rtol=1e-5, atol=0)


def test_mean_squared_error_of_a_constant_difference():
    fixed = torch.rand(1, 1, *SIZE)
    torch.testing.assert_close(
        mean_squared_error(fixed, fixed + 0.5), torch.tensor(0.25), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_matches_an_image_better_than_itself(loss, images):
    fixed, warped = images
    itself = loss(fixed, fixed)
    assert itself < loss(fixed, warped) - 0.01
    if loss is not mutual_information:
        assert itself < 1e-4


@pytest.mark.parametrize("loss", [local_ncc, mutual_information, mind_ssc])
def test_inverted_contrast_is_no_difference(loss, images):
    fixed, _ = images
    torch.testing.assert_close(loss(fixed, 1 - fixed), loss(fixed, fixed), rtol=0, atol=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_constant_images_are_finite(loss, constant, images):
    for fixed in (torch.full((1, 1, *SIZE), constant), images[0]):
        warped = torch.full((1, 1, *SIZE), constant, requires_grad=True)
        value = loss(fixed, warped)
        value.backward()
        assert value.isfinite()
        assert warped.grad.isfinite().all()
        assert warped.grad.abs().max() < 100


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_two_is_the_mean_of_two(loss, images):
    fixed, warped = images
    mask = torch.zeros(2, 1, *SIZE)
    mask[0, :, :7], mask[1, :, :, 3:] = 1, 1
    both = loss(torch.cat([fixed, warped]), torch.cat([warped, warped.square()]), mask)
    one, other = loss(fixed, warped, mask[:1]), loss(warped, warped.square(), mask[1:])
    torch.testing.assert_close(both, (one + other) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_full_mask_changes_nothing_and_an_empty_one_leaves_nothing(loss, images):
    fixed, warped = images
    ones = torch.ones_like(fixed)
    torch.testing.assert_close(loss(fixed, warped, ones), loss(fixed, warped), rtol=1e-4, atol=1e-6)
    assert loss(fixed, warped, 0 * ones).isfinite()


@pytest.mark.parametrize("loss", LOSSES)
def test_what_lies_outside_the_mask_does_not_matter(loss, images):
    fixed, warped = images
    mask = torch.zeros_like(fixed)
    mask[:, :, :3] = 1
    changed = warped.clone()
    changed[:, :, 9:] = 0.5  # farther from the mask than windows reach
    # The limits of MIND's variance come from the whole image, and are rarely met.
    torch.testing.assert_close(
        loss(fixed, changed, mask), loss(fixed, warped, mask), rtol=0, atol=1e-5
    )
    assert (loss(fixed, changed) - loss(fixed, warped)).abs() > 1e-3


def test_intensities_beyond_the_bins_are_in_the_last_ones(images):
    fixed, warped = (x - 0.5 for x in images)
    expected = mutual_information(fixed, warped)
    for lowest in (-20.0, -1e6):
        low = torch.where(fixed < -1 / 62, lowest, fixed)  # all of them nearest to the first bin
        found = mutual_information(low, warped)
        assert found.isfinite()
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05)  # nats
