import pytest
import torch

from rwcnet_ref.deformation import smooth_noise
from rwcnet_ref.grid import Warp, clamp_to_grid, compose, downsample, identity, upsample

SIZE = (9, 7, 11)
warp = Warp()


def constant(vector, size=SIZE):
    return torch.tensor(vector, dtype=torch.float32).view(1, 3, 1, 1, 1).expand(1, 3, *size)


def affine_flow(matrix, shift, size):
    here = identity(torch.zeros(1, 3, *size))
    centre = (torch.tensor(size).view(1, 3, 1, 1, 1) - 1) / 2
    moved = torch.einsum("dc,bcijk->bdijk", torch.tensor(matrix), here - centre)
    return moved + centre + torch.tensor(shift).view(1, 3, 1, 1, 1) - here


def test_identity_holds_voxel_indices():
    here = identity(torch.zeros(2, 3, *SIZE))
    assert here.shape == (1, 3, *SIZE)
    assert here[0, :, 5, 2, 10].tolist() == [5, 2, 10]


def test_zero_flow_changes_nothing(random):
    image = torch.rand((1, 2, *SIZE), generator=random)
    torch.testing.assert_close(warp(image, torch.zeros(1, 3, *SIZE)), image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shift", [-3, 2])
def test_a_translation_pulls_back_and_lets_zeros_in(random, axis, shift):
    image = 1 + torch.rand((1, 2, *SIZE), generator=random)
    vector = [0, 0, 0]
    vector[axis] = shift
    expected = torch.roll(image, -shift, dims=2 + axis)
    gone = slice(-shift, None) if shift > 0 else slice(0, -shift)
    expected.movedim(2 + axis, 0)[gone] = 0
    torch.testing.assert_close(warp(image, constant(vector)), expected, rtol=0, atol=1e-5)


def test_a_sample_half_way_out_is_half_the_border_value():
    warped = warp(torch.ones(1, 1, *SIZE), constant([0, 0, 0.5]))
    torch.testing.assert_close(warped[..., -1], torch.full((1, 1, 9, 7), 0.5), rtol=0, atol=1e-5)


def test_a_batch_of_two_is_two_of_one_and_sizes_may_change(random):
    image = torch.rand((2, 2, *SIZE), generator=random)
    flow = torch.randn((2, 3, *SIZE), generator=random)
    both = warp(image, flow)
    warp(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4))
    for n in range(2):
        one = warp(image[n : n + 1], flow[n : n + 1])
        torch.testing.assert_close(both[n : n + 1], one, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_the_image_is_kept(dtype):
    warped = warp(torch.ones(1, 1, *SIZE, dtype=dtype), torch.zeros(1, 3, *SIZE))
    assert warped.dtype == dtype


@pytest.mark.parametrize("flow_dtype", [torch.float16, torch.float32])
def test_half_precision_keeps_the_place_near_coordinate_200(flow_dtype):
    # A ramp that is exact in half precision and zero at 200.
    ramp = torch.arange(-200, 24, dtype=torch.float16).view(1, 1, 224, 1, 1).expand(1, 1, 224, 2, 2)
    flow = torch.zeros(1, 3, 224, 2, 2, dtype=flow_dtype)
    flow[:, 0] = 0.03
    found = warp(ramp, flow)[0, 0, 200].float()
    # Voxels; coordinates in half precision are an eighth of a voxel apart here.
    torch.testing.assert_close(found, torch.full((2, 2), 0.03), rtol=0, atol=1e-4)


@pytest.mark.parametrize("flow", [(1, 3, 9, 7, 10), (1, 2, 9, 7, 11)], ids=str)
def test_a_flow_of_another_grid_is_refused(flow):
    with pytest.raises(ValueError, match="differ in grid"):
        warp(torch.zeros(1, 1, *SIZE), torch.zeros(flow))


def test_clamped_flows_stay_inside_and_leave_others_alone(random):
    flow = 6 * torch.randn((1, 3, *SIZE), generator=random)
    points = identity(flow) + flow
    clamped = identity(flow) + clamp_to_grid(flow)
    for axis, n in enumerate(SIZE):
        torch.testing.assert_close(
            clamped[:, axis], points[:, axis].clamp(0, n - 1), rtol=0, atol=1e-5
        )  # voxels


def test_composing_affine_flows_multiplies_their_matrices():
    size = (16, 14, 15)
    step = [[1.05, 0.1, 0], [-0.1, 0.95, 0.05], [0, 0, 1.0]], [0.5, -1.0, 0.25]
    below = [[0.9, 0, 0.1], [0.05, 1.1, 0], [0.1, -0.1, 1.0]], [-1.0, 0.5, 1.5]
    product = torch.tensor(below[0]) @ torch.tensor(step[0])
    shift = torch.tensor(below[0]) @ torch.tensor(step[1]) + torch.tensor(below[1])
    found = compose(warp, affine_flow(*step, size), affine_flow(*below, size))
    expected = affine_flow(product.tolist(), shift.tolist(), size)
    inner = (..., *[slice(3, -3)] * 3)
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=1e-4)  # voxels
    # The other order is another flow.
    other = compose(warp, affine_flow(*below, size), affine_flow(*step, size))
    assert (other - expected)[inner].abs().max() > 0.3  # voxels


def test_a_composed_flow_warps_like_one_flow_after_the_other(random):
    size = (30, 30, 30)
    image = (identity(torch.zeros(1, 3, *size)) / 4).sin()
    step, below = (4 * smooth_noise(size, 3, 10.0, random) for _ in range(2))
    twice = warp(warp(image, below), step)
    once = warp(image, compose(warp, step, below))
    inner = (..., *[slice(9, -9)] * 3)
    # Two interpolations of a wave of amplitude 1 blur it, by at most (1/4)^2 / 8 each.
    torch.testing.assert_close(once[inner], twice[inner], rtol=0, atol=0.02)
    added = warp(image, step + below)
    assert (added - twice)[inner].abs().max() > 0.1


@pytest.mark.parametrize("far", [0.5, 100.0])
def test_composition_keeps_border_values(random, far):
    step = far * torch.randn((1, 3, *SIZE), generator=random)
    below = constant([1.0, -2.0, 3.0])
    found = compose(warp, step, below)
    torch.testing.assert_close(found, step + below, rtol=0, atol=1e-4)  # voxels


def test_upsampling_is_half_pixel():
    ramp = torch.arange(6.0).view(1, 1, 6, 1, 1) + 10 * torch.arange(5.0).view(1, 1, 1, 5, 1)
    high = upsample(ramp.expand(1, 1, 6, 5, 4))
    assert high.shape == (1, 1, 12, 10, 8)
    # A value stays at its place: x_hi = 2 x_lo + 1/2, and borders repeat.
    i = ((torch.arange(12.0) - 0.5) / 2).clamp(0, 5)
    j = ((torch.arange(10.0) - 0.5) / 2).clamp(0, 4)
    expected = i.view(12, 1, 1) + 10 * j.view(1, 10, 1)
    torch.testing.assert_close(high[0, 0], expected.expand(12, 10, 8), rtol=0, atol=1e-5)


def test_downsampling_is_half_pixel_and_undoes_upsampling():
    ramp = torch.arange(12.0).view(1, 1, 12, 1, 1).expand(1, 1, 12, 12, 12)
    quarter = downsample(ramp, 4)
    assert quarter.shape == (1, 1, 3, 3, 3)
    assert quarter[0, 0, :, 0, 0].tolist() == [1.5, 5.5, 9.5]  # x_hi = 4 x_lo + 3/2
    inner = slice(1, -1)
    back = downsample(upsample(ramp), 2)
    torch.testing.assert_close(back[:, :, inner], ramp[:, :, inner], rtol=0, atol=1e-5)
    torch.testing.assert_close(downsample(ramp, 1), ramp, rtol=0, atol=0)


def test_an_upsampled_flow_moves_the_same_tissue():
    low, high = (6, 6, 6), (12, 12, 12)
    matrix = [[1.1, 0.1, 0], [0, 0.9, 0], [-0.1, 0, 1.0]]
    found = 2 * upsample(affine_flow(matrix, [0.5, -0.25, 1.0], low))
    # About the centre of the image, so only the shift knows the voxel.
    expected = affine_flow(matrix, [1.0, -0.5, 2.0], high)
    inner = (..., *[slice(1, -1)] * 3)
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=1e-4)  # voxels
