import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import correlate, gaussian_filter

from rwcnet_runtime.evaluation.deformation import (
    folded_percent,
    non_diffeomorphic_percent,
    sd_log_jacobian,
)
from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant

RNG = np.random.default_rng(0)
SHAPE = (14, 15, 16)
UNIT = ImageGrid(SHAPE, np.eye(4))


def random_field(scale):
    return (gaussian_filter(RNG.standard_normal((*SHAPE, 3)), (1, 1, 1, 0)) * scale).astype(
        np.float32
    )


def test_sd_log_jacobian_is_that_of_learn2reg():
    """Its formula, written out: zeros outside, two voxels cut, J + 3 clipped."""
    field = random_field(4.0)
    kernel = np.array([-0.5, 0, 0.5])
    gradient = [
        [
            correlate(
                field[..., c], kernel.reshape(np.roll((3, 1, 1), a)), mode="constant", cval=0.0
            )
            for c in range(3)
        ]
        for a in range(3)
    ]
    jacobian = np.moveaxis(np.array(gradient), (0, 1), (-2, -1)) + np.eye(3)
    determinant = np.linalg.det(jacobian[2:-2, 2:-2, 2:-2])
    logarithm = np.log((determinant + 3).clip(1e-9, 1e9))
    mask = RNG.random(SHAPE) > 0.5
    found = jacobian_determinant(field, UNIT)
    assert sd_log_jacobian(found) == pytest.approx(logarithm.std(), abs=1e-5)
    inner = logarithm[mask[2:-2, 2:-2, 2:-2]]
    assert sd_log_jacobian(found, mask) == pytest.approx(inner.std(), abs=1e-5)
    assert np.isnan(sd_log_jacobian(np.ones((4, 9, 9), np.float32)))


def test_the_jacobian_is_that_of_simpleitk():
    spacing = (1.5, 1.0, 2.5)
    grid = ImageGrid(SHAPE, np.diag([*spacing, 1]))
    field = random_field(2.0)
    image = sitk.GetImageFromArray(field.transpose(2, 1, 0, 3).astype(np.float64), isVector=True)
    image.SetSpacing(spacing)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    inner = (slice(1, -1),) * 3
    found = jacobian_determinant(field, grid)[inner]
    np.testing.assert_allclose(found, expected.transpose(2, 1, 0)[inner], rtol=0, atol=1e-5)


def test_folded_voxels_are_counted_where_the_mask_is():
    determinant = np.array([[[1.0, 0.0, -2.0, 3.0]]], np.float32)
    assert folded_percent(determinant) == 50
    assert folded_percent(determinant, np.array([[[True, True, False, False]]])) == 50
    assert folded_percent(determinant, determinant > 0) == 0


def test_no_volume_is_lost_by_a_smooth_map(make_grid):
    for orientation in ("RAS", "oblique", "anisotropic"):
        grid = make_grid(orientation)
        points = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
        smooth = (2 * np.sin(points / 10) + points * 0.2).astype(np.float32)
        assert non_diffeomorphic_percent(smooth, grid) == 0


def test_a_mirrored_axis_turns_every_cube_inside_out(sheared_grid):
    """x -> -x along the first voxel axis: 10 tetrahedra of 2 whole cubes, each counted half."""
    edge = sheared_grid.affine[:3, 0]
    i = np.arange(sheared_grid.shape[0])
    step = (-2.0 * i)[:, None, None, None] * edge
    field = np.broadcast_to(step, (*sheared_grid.shape, 3)).astype(np.float32)
    assert non_diffeomorphic_percent(field, sheared_grid) == pytest.approx(100, abs=1e-3)
    mask = np.zeros(sheared_grid.shape, bool)
    assert np.isnan(non_diffeomorphic_percent(field, sheared_grid, mask))


def test_one_voxel_that_central_differences_do_not_see():
    """A voxel pushed over its neighbour: J is 1 at the voxel itself, yet the map folds."""
    field = np.zeros((*SHAPE, 3), np.float32)
    field[7, 7, 7, 0] = 1.5
    assert jacobian_determinant(field, UNIT)[7, 7, 7] == 1
    # In each of the four cubes ahead, the tetrahedron cut off at the voxel and the one cut off at
    # its neighbour have the volume (1 - 1.5) / 6; they belong to different ways of cutting.
    found = non_diffeomorphic_percent(field, UNIT) / 100 * 13 * 14 * 15
    assert found == pytest.approx(4 * 2 * (0.5 / 6) / 2, abs=1e-5)  # voxels
    beside = np.ones(SHAPE, bool)
    beside[7, 7, 7] = False
    assert non_diffeomorphic_percent(field, UNIT, beside) == 0


def test_volume_is_that_of_the_authors_code():
    """digital-diffeomorphism 1.1.1 on the same field, in voxels."""
    field = np.zeros((*SHAPE, 3), np.float32)
    field[4:-4, 4:-4, 4:-4] = np.random.default_rng(5).standard_normal((6, 7, 8, 3))
    found = non_diffeomorphic_percent(field, UNIT) / 100 * 13 * 14 * 15
    assert found == pytest.approx(417.5312, rel=1e-5)
