import pytest
import torch

from rwcnet_ref.grid import identity
from rwcnet_ref.losses import dice_loss, displacement_error, gradient_penalty

SIZE = (6, 5, 4)


def test_displacement_error_of_the_truth_is_the_smoothing_and_has_no_slope(random):
    truth = torch.randn((1, 3, *SIZE), generator=random)
    flow = truth.clone().requires_grad_()
    error = displacement_error(flow, truth)
    error.backward()
    torch.testing.assert_close(error.detach(), torch.tensor(0.01), rtol=0, atol=1e-6)  # voxels
    assert flow.grad.abs().max() == 0


def test_displacement_error_is_a_distance_in_voxels(random):
    truth = torch.randn((2, 3, *SIZE), generator=random)
    offset = torch.tensor([2.0, -3.0, 6.0]).view(1, 3, 1, 1, 1)
    error = displacement_error(truth + offset, truth)
    torch.testing.assert_close(error, torch.tensor(7.0), rtol=0, atol=1e-4)  # voxels


def slabs(*ranges):
    image = torch.zeros(1, len(ranges), 8, 8, 8)
    for channel, (first, last) in enumerate(ranges):
        image[0, channel, first:last] = 1
    return image


@pytest.mark.parametrize(
    ("warped", "fixed", "expected"),
    [
        ([(0, 4)], [(0, 4)], 0.0),
        ([(0, 4)], [(4, 8)], 1.0),
        ([(0, 4)], [(2, 6)], 0.5),
        ([(0, 4), (0, 4)], [(0, 4), (4, 8)], 0.5),
        ([(0, 4), (0, 0)], [(0, 4), (0, 0)], 0.0),  # the second is in neither
        ([(0, 4), (0, 0)], [(0, 4), (0, 4)], 0.5),  # the second was lost
        ([(0, 0)], [(0, 0)], 0.0),
        ([], [], 0.0),
    ],
    ids=str,
)
def test_dice_loss_of_slabs(warped, fixed, expected):
    loss = dice_loss(slabs(*warped), slabs(*fixed))
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=0, atol=1e-6)


def test_dice_loss_fills_the_structure_and_empties_the_rest():
    warped = (0.5 * slabs((0, 6))).requires_grad_()
    dice_loss(warped, slabs((0, 4))).backward()
    assert (warped.grad[:, :, :4] < 0).all()
    assert (warped.grad[:, :, 4:6] > 0).all()


def test_gradient_penalty_of_a_linear_flow_is_the_mean_square_of_its_matrix():
    matrix = torch.tensor([[0.5, 0, -1], [2, 0.25, 0], [0, 0, 1.5]])
    here = identity(torch.zeros(1, 3, *SIZE))
    flow = torch.einsum("dc,bcijk->bdijk", matrix, here) + 3
    expected = matrix.square().mean()
    torch.testing.assert_close(gradient_penalty(flow), expected, rtol=0, atol=1e-5)


def test_gradient_penalty_of_a_translation_is_zero():
    assert gradient_penalty(torch.full((1, 3, *SIZE), 4.0)) == 0
