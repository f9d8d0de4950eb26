import pytest
import torch

from rwcnet_ref.grid import identity
from rwcnet_ref.losses import (
    bending_energy,
    dice_loss,
    displacement_error,
    gradient_penalty,
    keypoint_distance,
    negative_jacobian_penalty,
)

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


def test_keypoint_distance_is_in_mm_along_the_edges_of_the_voxels():
    flow = torch.tensor([1.0, 0.0, -0.5]).view(1, 3, 1, 1, 1).expand(1, 3, *SIZE)
    fixed = torch.tensor([[1.0, 1.0, 1.0], [2.5, 3.25, 0.0]])
    # Off by (1, 2, 2) voxels of 3, 2 and 1 mm along turned axes.
    moving = fixed + torch.tensor([2.0, 2.0, 1.5])
    edges = torch.tensor([[0.0, -2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    distance = keypoint_distance(flow, fixed, moving, edges)
    expected = torch.tensor((3**2 + 4**2 + 2**2) ** 0.5)
    torch.testing.assert_close(distance, expected, rtol=0, atol=1e-4)  # mm


def test_keypoint_distance_samples_the_flow_between_voxels():
    here = identity(torch.zeros(1, 3, *SIZE))
    points = torch.tensor([[0.5, 3.25, 2.75], [5.0, 4.0, 3.0]])  # the last is the last voxel
    distance = keypoint_distance(0.5 * here, points, 1.5 * points, torch.eye(3))
    torch.testing.assert_close(distance, torch.tensor(0.01), rtol=0, atol=1e-4)  # mm


def test_no_keypoints_are_no_loss_and_no_slope():
    flow = torch.zeros(1, 3, *SIZE, requires_grad=True)
    distance = keypoint_distance(flow, torch.zeros(0, 3), torch.zeros(0, 3), torch.eye(3))
    distance.backward()
    assert distance == 0
    assert flow.grad.abs().max() == 0


def test_bending_energy_of_a_quadratic_flow_is_the_mean_square_of_its_hessians(random):
    hessians = torch.randn(3, 3, 3, generator=random)
    hessians = hessians + hessians.mT
    here = identity(torch.zeros(1, 3, *SIZE, dtype=torch.float64))
    flow = torch.einsum("cde,bdijk,beijk->bcijk", hessians.double(), here, here) / 2
    expected = hessians.double().square().mean()
    torch.testing.assert_close(bending_energy(flow), expected, rtol=1e-9, atol=0)


def test_bending_energy_of_an_affine_flow_is_zero(random):
    here = identity(torch.zeros(1, 3, *SIZE))
    flow = torch.einsum("dc,bcijk->bdijk", torch.randn(3, 3, generator=random), here) + 3
    torch.testing.assert_close(bending_energy(flow), torch.tensor(0.0), rtol=0, atol=1e-9)


def test_penalties_of_the_smallest_grid_are_finite():
    for penalty in (gradient_penalty, bending_energy, negative_jacobian_penalty):
        assert penalty(torch.ones(1, 3, 2, 2, 2)) == 0


@pytest.mark.parametrize(
    ("scales", "expected"),
    [((1.5, 0.5, 2.0), 0.0), ((-0.5, 2.0, 1.0), 1.0), ((-1.0, -1.0, 1.0), 0.0)],
    ids=str,
)
def test_negative_jacobian_penalty_of_a_linear_map_is_its_orientation(scales, expected):
    here = identity(torch.zeros(1, 3, *SIZE))
    flow = (torch.tensor(scales) - 1).view(1, 3, 1, 1, 1) * here
    penalty = negative_jacobian_penalty(flow)
    torch.testing.assert_close(penalty, torch.tensor(expected), rtol=0, atol=1e-5)


def test_negative_jacobian_penalty_sees_off_diagonal_derivatives():
    # Two axes exchanged: every voxel keeps its volume and loses its orientation.
    here = identity(torch.zeros(1, 3, *SIZE))
    flow = here[:, [1, 0, 2]] - here
    torch.testing.assert_close(
        negative_jacobian_penalty(flow), torch.tensor(1.0), rtol=0, atol=1e-5
    )


def test_negative_jacobian_penalty_unfolds():
    flow = torch.zeros(1, 3, *SIZE)
    flow[:, 0, 2] = 1.5  # beyond the plane after it
    flow.requires_grad_()
    negative_jacobian_penalty(flow).backward()
    assert (flow.grad[0, 0, 2] > 0).any()
    assert (flow.grad[0, 0, 2] >= 0).all()


@pytest.mark.parametrize("penalty", [gradient_penalty, bending_energy, negative_jacobian_penalty])
def test_penalties_are_means_over_the_batch(penalty, random):
    flows = 2 * torch.randn((2, 3, *SIZE), generator=random)
    expected = (penalty(flows[:1]) + penalty(flows[1:])) / 2
    torch.testing.assert_close(penalty(flows), expected, rtol=1e-5, atol=0)
