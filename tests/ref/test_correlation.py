import itertools

import pytest
import torch
import torch.nn.functional as F

from rwcnet_ref.correlation import LocalCorrelation, local_correlation

SIZE = (4, 3, 5)


def drawn(random, radius, *, batch=2, channels=3, projected=2):
    n = 2 * radius + 1
    shapes = [(batch, channels, *SIZE)] * 2 + [(projected, 1, n, n, n), (projected,)]
    return [torch.randn(shape, generator=random) for shape in shapes]


def at(image, place):
    inside = all(0 <= x < n for x, n in zip(place, SIZE, strict=True))
    return image[(slice(None), slice(None), *place)] if inside else torch.zeros(image.shape[:2])


@pytest.mark.parametrize("radius", [1, 2])
def test_plain_loops_give_the_same(random, radius):
    fixed, moving, weight, bias = drawn(random, radius)
    expected = torch.zeros(2, 2, *SIZE)
    for x in itertools.product(*map(range, SIZE)):
        out = bias.expand(2, 2).clone()
        for k in itertools.product(range(2 * radius + 1), repeat=3):
            there = [a + b - radius for a, b in zip(x, k, strict=True)]
            product = (at(fixed, x) * at(moving, there)).sum(1)
            out += product[:, None] * weight[(slice(None), 0, *k)]
        expected[(slice(None), slice(None), *x)] = out
    found = local_correlation(fixed, moving, weight, bias, radius=radius)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # sums of up to 375 products


@pytest.mark.parametrize("radius", [1, 2])
def test_plain_loops_give_the_same_absolute_differences(random, radius):
    fixed, moving, weight, bias = drawn(random, radius)
    offsets = list(itertools.product(range(2 * radius + 1), repeat=3))
    cost = torch.zeros(2, len(offsets), *SIZE)
    for x in itertools.product(*map(range, SIZE)):
        for n, k in enumerate(offsets):
            there = [a + b - radius for a, b in zip(x, k, strict=True)]
            difference = (at(fixed, x) - at(moving, there)).abs().sum(1)
            cost[(slice(None), n, *x)] = difference
    mean = torch.zeros_like(cost)
    for x in itertools.product(*map(range, SIZE)):
        for step in itertools.product((-1, 0, 1), repeat=3):
            there = [a + b for a, b in zip(x, step, strict=True)]
            # Beyond the border is zero, and counts: always 27 voxels.
            mean[(slice(None), slice(None), *x)] += at(cost, there) / 27
    planes = weight.reshape(len(weight), -1)
    expected = torch.einsum("ok,bk...->bo...", planes, mean) + bias.view(1, -1, 1, 1, 1)
    metric = "absolute_difference"
    found = local_correlation(fixed, moving, weight, bias, radius=radius, metric=metric)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)  # sums of up to 375 differences


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 1), (4, 3, 5)], ids=str)
def test_images_smaller_than_the_search_are_compared_with_zeros(random, size):
    fixed, moving = torch.rand((2, 2, 3, *size), generator=random)
    weight = torch.ones(1, 1, 7, 7, 7)
    found = local_correlation(
        fixed, moving, weight, torch.zeros(1), radius=3, metric="absolute_difference"
    )
    assert found.shape == (2, 1, *size)
    alone = local_correlation(
        fixed[1:], moving[1:], weight, torch.zeros(1), radius=3, metric="absolute_difference"
    )
    torch.testing.assert_close(found[1:], alone, rtol=1e-5, atol=0)
    assert (found > 0).all()


@pytest.mark.parametrize("radius", [1, 2])
def test_convolving_each_moving_channel_gives_the_same(random, radius):
    fixed, moving, weight, bias = drawn(random, radius, channels=4, projected=3)
    expected = bias.view(1, -1, 1, 1, 1) + sum(
        fixed[:, c : c + 1] * F.conv3d(moving[:, c : c + 1], weight, padding=radius)
        for c in range(4)
    )
    found = local_correlation(fixed, moving, weight, bias, radius=radius)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("offset", [(0, 0, 0), (-2, 1, 0), (0, -1, 2), (2, 2, 2)], ids=str)
def test_one_weight_picks_one_offset_and_outside_is_zero(random, offset):
    radius = 2
    fixed, moving, weight, bias = drawn(random, radius, projected=1)
    weight.zero_()[(0, 0, *(k + radius for k in offset))] = 1
    found = local_correlation(fixed, moving, weight, bias.zero_(), radius=radius)
    for x in itertools.product(*map(range, SIZE)):
        there = [a + b for a, b in zip(x, offset, strict=True)]
        expected = (at(fixed, x) * at(moving, there)).sum(1)
        here = found[(slice(None), 0, *x)]
        torch.testing.assert_close(here, expected, rtol=0, atol=1e-5)


def sliced(fixed, moving, weight, bias, radius):
    """Correlate by plain slices, whose gradient is autograd's."""
    n = 2 * radius + 1
    padded = F.pad(moving, (radius,) * 6)
    i, j, k = fixed.shape[2:]
    cost = torch.stack(
        [
            (fixed * padded[..., a : a + i, b : b + j, c : c + k]).sum(1)
            for a, b, c in itertools.product(range(n), repeat=3)
        ],
        dim=1,
    )
    return F.conv3d(cost, weight.reshape(len(weight), n**3, 1, 1, 1), bias)


@pytest.mark.parametrize("radius", [1, 2])
def test_gradients_are_those_of_the_sum(random, radius):
    inputs = drawn(random, radius)
    wanted = torch.randn((2, 2, *SIZE), generator=random)
    found, expected = (
        torch.autograd.grad(
            function(*leaves, radius=radius), leaves, grad_outputs=wanted, allow_unused=False
        )
        for function in (local_correlation, sliced)
        for leaves in [[x.clone().requires_grad_() for x in inputs]]
    )
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 1
        # Sums of up to 250 products of about one.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("learning", [0, 1])
def test_features_learn_beside_some_that_do_not(random, learning):
    inputs = drawn(random, 1)
    inputs[learning].requires_grad_()
    found, expected = (
        torch.autograd.grad(function(*inputs, radius=1).sum(), inputs[learning])
        for function in (local_correlation, sliced)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_half_precision_is_summed_in_full_and_gradients_come_back_in_half(random):
    fixed, moving, weight, bias = drawn(random, 2, channels=8)
    halves = [x.bfloat16().requires_grad_() for x in (fixed, moving)]
    full = [x.detach().float().requires_grad_() for x in halves]
    found = local_correlation(*halves, weight, bias, radius=2)
    expected = sliced(*full, weight, bias, radius=2)
    assert found.dtype == torch.float32
    # Of inputs that were rounded already: nothing is rounded on the way.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    wanted = torch.randn(found.shape, generator=random)
    gradients = torch.autograd.grad(found, halves, wanted)
    assert {x.dtype for x in gradients} == {torch.bfloat16}
    for one, other in zip(gradients, torch.autograd.grad(expected, full, wanted), strict=True):
        # One rounding at the end, of at most half of the last of eight bits.
        torch.testing.assert_close(one.float(), other, rtol=2**-8, atol=1e-4)


def test_a_weight_of_another_radius_is_refused(random):
    fixed, moving, weight, bias = drawn(random, 1)
    with pytest.raises(ValueError, match=r"radius 2 needs \(o, 1, 5, 5, 5\)"):
        local_correlation(fixed, moving, weight, bias, radius=2)


def test_features_of_other_shapes_are_refused(random):
    fixed, moving, weight, bias = drawn(random, 1)
    with pytest.raises(ValueError, match="features differ"):
        local_correlation(fixed, moving[..., 1:], weight, bias, radius=1)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1, -1])
def test_untrained_channels_tell_which_way_the_match_lies(random, axis, sign):
    fixed = F.normalize(torch.randn((1, 16, 9, 9, 9), generator=random), dim=1)
    # What is at x in the fixed features is at x + 1 in the moving ones, or at x - 1.
    moving = torch.roll(fixed, sign, dims=2 + axis)
    correlation = LocalCorrelation(projected=6, radius=1).requires_grad_(False)
    means = correlation(fixed, moving)[0, :, 2:-2, 2:-2, 2:-2].mean((1, 2, 3))
    assert means.argmax() == 2 * axis + (0 if sign > 0 else 1)
    assert means.max() > 0.1
