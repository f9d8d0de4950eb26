import pytest
import torch

from rwcnet_ref.deformation import random_affine, random_flow, smooth_noise
from rwcnet_ref.grid import Warp, compose, exponential, identity

SIZE = (20, 16, 24)
INNER = (..., *[slice(5, -5)] * 3)
warp = Warp()


def jacobian(flow):
    places = identity(flow) + flow
    i, j, k = (n - 1 for n in flow.shape[2:])
    columns = [places.diff(dim=axis)[:, :, :i, :j, :k] for axis in (2, 3, 4)]
    return torch.linalg.det(torch.stack(columns, -1).permute(0, 2, 3, 4, 1, 5))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_a_seed_is_a_flow():
    options = {"amplitude": 3.0, "spacing": 10.0}
    first = random_flow(SIZE, seeded(1), **options)
    assert first.shape == (1, 3, *SIZE)
    assert first.dtype == torch.float32
    torch.testing.assert_close(first, random_flow(SIZE, seeded(1), **options), rtol=0, atol=0)
    assert (first - random_flow(SIZE, seeded(2), **options)).abs().max() > 1  # voxels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    # As steep as `SyntheticSource` draws at most, a third, and steeper; on grids 1 to 4 as coarse.
    ("size", "amplitude", "spacing"),
    [(36, 1.0, 3.0), (36, 2.0, 4.0), (40, 3.0, 8.0), (40, 4.0, 12.0), (40, 4.0, 16.0)],
)
def test_flows_of_the_training_do_not_fold(seed, size, amplitude, spacing):
    flow = random_flow((size,) * 3, seeded(seed), amplitude=amplitude, spacing=spacing)
    assert jacobian(flow).min() > 0.1
    assert flow.square().sum(1).sqrt().max() > amplitude / 2  # voxels: it moves something


def test_steep_flows_do_fold():
    # So that the test above can fail: the same noise, added instead of integrated.
    noise = smooth_noise((32, 32, 32), 3, 4.0, seeded(0))
    assert jacobian(4 * noise).min() < 0


def test_amplitude_grows_the_flow():
    sizes = [
        float(random_flow(SIZE, seeded(3), amplitude=a, spacing=12.0).square().mean().sqrt())
        for a in (0.5, 2.0, 4.0)
    ]
    assert sizes == sorted(sizes)
    # What is left of the smallest is its affine part.
    assert sizes[2] - sizes[0] > 0.5  # voxels


def test_the_grid_the_flow_is_integrated_on_does_not_change_its_size():
    # From a spacing of 8 voxels on, it is coarser.
    fine, coarse = (
        torch.cat([random_flow((32, 32, 32), seeded(n), **options, affine=0.0) for n in range(6)])
        for options in ({"amplitude": 2.0, "spacing": s} for s in (7.9, 8.0))
    )
    assert 0.7 < float(coarse.square().mean() / fine.square().mean()) ** 0.5 < 1.4


def test_no_strength_is_no_movement():
    flow = random_flow(SIZE, seeded(0), amplitude=0.0, spacing=8.0, affine=0.0)
    torch.testing.assert_close(flow, torch.zeros_like(flow), rtol=0, atol=1e-5)  # voxels


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_affines_are_rotations_times_scales(strength):
    for seed in range(20):
        matrix = random_affine(seeded(seed), strength)
        scales = (matrix.T @ matrix).diag().sqrt()
        torch.testing.assert_close(
            matrix.T @ matrix, torch.diag(scales.square()), rtol=0, atol=1e-5
        )
        assert scales.log().abs().max() <= 0.1 * strength + 1e-5
        rotation = matrix / scales
        angle = torch.rad2deg(torch.arccos(((rotation.trace() - 1) / 2).clamp(-1, 1)))
        assert angle <= 10 * 3**0.5 * strength + 0.1  # degrees, about three axes at once


def test_affines_turn_about_the_centre():
    flow = random_flow((21, 17, 15), seeded(0), amplitude=0.0, spacing=8.0, affine=1.0)
    assert flow[0, :, 10, 8, 7].abs().max() < 1e-4  # voxels
    assert flow.abs().max() > 0.5  # voxels


@pytest.mark.parametrize("spacing", [8.0, 12.0])
def test_the_inverse_of_an_exponential_is_that_of_minus_the_velocity(random, spacing):
    velocity = spacing / 4 * smooth_noise(SIZE, 3, spacing, random)
    there, back = exponential(warp, velocity), exponential(warp, -velocity)
    assert there[INNER].abs().max() > 0.5  # voxels
    for first, second in ((there, back), (back, there)):
        left = compose(warp, first, second)[INNER]
        assert left.square().sum(1).sqrt().max() < 0.05  # voxels


def test_the_exponential_of_a_constant_is_that_constant():
    velocity = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, *SIZE)
    torch.testing.assert_close(exponential(warp, velocity), velocity, rtol=0, atol=1e-4)  # voxels


def test_the_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    size = (17, 17, 17)
    matrix = torch.tensor([[0.1, -0.2, 0], [0.2, 0, 0], [0, 0, -0.1]])
    from_centre = identity(torch.zeros(1, 3, *size)) - 8
    found = exponential(warp, torch.einsum("dc,bcijk->bdijk", matrix, from_centre))
    whole = torch.linalg.matrix_exp(matrix) - torch.eye(3)
    expected = torch.einsum("dc,bcijk->bdijk", whole, from_centre)
    # Linear to second order: 2^6 steps leave |v|^2 / 2^7 of it.
    torch.testing.assert_close(found[INNER], expected[INNER], rtol=0, atol=0.01)  # voxels


@pytest.mark.parametrize("spacing", [1.5, 3.0, 7.3, 40.0])
def test_noise_is_smooth_at_its_spacing(spacing):
    noise = smooth_noise((30, 24, 18), 4, spacing, seeded(0))
    assert noise.shape == (1, 4, 30, 24, 18)
    assert noise.diff(dim=2).abs().max() < 3.0 / spacing
    assert noise.diff(dim=2).abs().max() > 0.1 / spacing


def test_the_flow_between_two_deformed_images_goes_over_their_common_base(random):
    # fixed(x) = base(f(x)) and moving(y) = base(m(y)), with f and m the maps of exp(v_f) and
    # exp(v_m). Voxel x of the fixed image shows what y of the moving one shows if m(y) = f(x),
    # so y = m^-1(f(x)): first exp(v_f), and where that points, exp(-v_m). `compose` samples its
    # second flow where its first one points, so exp(v_f) is the step and exp(-v_m) lies below.
    size = (30, 30, 30)
    base = (identity(torch.zeros(1, 3, *size)) / 4).sin()
    of_fixed, of_moving = (4 * smooth_noise(size, 3, 8.0, random) for _ in range(2))
    fixed = warp(base, exponential(warp, of_fixed))
    moving = warp(base, exponential(warp, of_moving))

    def error(flow):
        return (warp(moving, flow) - fixed)[..., 9:-9, 9:-9, 9:-9].abs().max()

    # Waves of amplitude 1 and slope 1/4: 0.03 is an eighth of a voxel.
    assert error(compose(warp, exponential(warp, of_fixed), exponential(warp, -of_moving))) < 0.03
    assert error(compose(warp, exponential(warp, -of_moving), exponential(warp, of_fixed))) > 0.2
    assert error(exponential(warp, of_fixed - of_moving)) > 0.1
    assert error(torch.zeros_like(of_fixed)) > 0.5
