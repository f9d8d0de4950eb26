import numpy as np

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.transforms.linear import fit_linear


def test_a_linear_map_is_found_in_a_field_far_from_the_origin(make_grid):
    grid = make_grid("oblique", centre=(900.0, -2000.0, 400.0))
    matrix = np.array([[0.2, -1.0, 0.1, 5], [1.1, 0.3, 0, -6], [0, 0.1, 0.9, 7], [0, 0, 0, 1]])
    x = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
    displacement = x @ matrix[:3, :3].T + matrix[:3, 3] - x
    displacement += np.random.default_rng(0).uniform(-0.5, 0.5, displacement.shape)
    found = fit_linear(displacement.astype(np.float32), grid)
    centre = grid.world_from_voxel((np.array(grid.shape) - 1) / 2)
    expected = matrix[:3, :3] @ centre + matrix[:3, 3]
    np.testing.assert_allclose(found[:3, :3] @ centre + found[:3, 3], expected, rtol=0, atol=0.05)
    np.testing.assert_allclose(found[:3, :3], matrix[:3, :3], rtol=0, atol=0.002)


def test_a_flat_map_has_the_identity():
    grid = ImageGrid((5, 6, 7), np.eye(4))
    displacement = np.zeros((*grid.shape, 3), np.float32)
    displacement[..., 2] = -np.arange(7)
    np.testing.assert_array_equal(fit_linear(displacement, grid), np.eye(4))
