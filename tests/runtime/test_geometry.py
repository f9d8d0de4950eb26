import numpy as np
import pytest

from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant


def _world_points(grid):
    return grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))


def test_world_from_voxel_of_a_grid_worked_by_hand():
    affine = np.array([[0, -3.0, 0, 10], [2, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    grid = ImageGrid((5, 6, 7), affine)
    np.testing.assert_array_equal(grid.world_from_voxel([1, 2, 3]), [4, 22, 42])
    np.testing.assert_array_equal(grid.spacing, [2, 3, 4])


def test_voxel_and_world_are_inverse(fixed_grid):
    voxels = np.random.default_rng(0).uniform(-5, 40, size=(4, 6, 3))
    back = fixed_grid.voxel_from_world(fixed_grid.world_from_voxel(voxels))
    np.testing.assert_allclose(back, voxels, rtol=0, atol=1e-10)  # voxels


def test_jacobian_of_no_displacement_is_one(fixed_grid):
    determinant = jacobian_determinant(np.zeros((*fixed_grid.shape, 3), np.float32), fixed_grid)
    assert determinant.shape == fixed_grid.shape
    assert determinant.dtype == np.float32
    np.testing.assert_allclose(determinant, 1, rtol=0, atol=1e-5)  # float32


@pytest.mark.parametrize("sheared", [False, True])
def test_jacobian_of_an_affine_map_is_its_determinant(fixed_grid, sheared_grid, sheared):
    grid = sheared_grid if sheared else fixed_grid
    matrix = np.array([[1.2, 0.1, -0.3], [0.0, 0.8, 0.2], [0.15, -0.1, 1.1]])
    displacement = _world_points(grid) @ (matrix - np.eye(3)).T + (4, 5, 6)
    determinant = jacobian_determinant(displacement.astype(np.float32), grid)
    # Differences of float32 displacements of some 10 mm.
    np.testing.assert_allclose(determinant, np.linalg.det(matrix), rtol=0, atol=5e-5)


def test_jacobian_varies_where_the_displacement_curves(make_grid):
    grid = make_grid("PSR")
    points = _world_points(grid)
    displacement = np.zeros_like(points)
    displacement[..., 0] = 0.005 * points[..., 0] ** 2  # world x is array axis k
    determinant = jacobian_determinant(displacement.astype(np.float32), grid)
    expected = 1 + 0.01 * points[..., 0]
    # Central differences of a parabola are exact; the border's are one-sided.
    np.testing.assert_allclose(determinant[..., 1:-1], expected[..., 1:-1], rtol=0, atol=5e-5)


def test_jacobian_of_a_fold_is_negative(fixed_grid):
    displacement = _world_points(fixed_grid) * (-2.0, 0, 0)  # x -> -x
    determinant = jacobian_determinant(displacement.astype(np.float32), fixed_grid)
    np.testing.assert_allclose(determinant, -1, rtol=0, atol=5e-5)
