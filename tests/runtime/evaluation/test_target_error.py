import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from rwcnet_runtime.evaluation.target_error import inside, landmark_errors_mm
from rwcnet_runtime.geometry import ImageGrid

RNG = np.random.default_rng(0)


def test_errors_by_hand():
    grid = ImageGrid((6, 7, 8), np.diag([2.0, 2, 2, 1]))
    displacement = np.zeros((6, 7, 8, 3), np.float32)
    displacement[:] = (3, 0, -4)
    fixed = np.array([[4.0, 4, 4], [5, 3, 9]])
    moving = np.array([[7.0, 4, 0], [5, 3, 9]])
    found = landmark_errors_mm(displacement, grid, fixed, moving)
    np.testing.assert_allclose(found, [0, 5], rtol=0, atol=1e-5)  # mm


def test_errors_are_those_of_learn2reg():
    """Its formula, written out: voxel displacements, splines of scipy, moving spacing."""
    shape, spacing = (40, 36, 44), np.array([1.5, 1.0, 2.5])
    grid = ImageGrid(shape, np.diag([*spacing, 1]))
    step_vox = gaussian_filter(RNG.standard_normal((*shape, 3)), (2, 2, 2, 0)) * 20
    fixed = RNG.uniform(0, np.array(shape) - 1, (30, 3))
    fixed[0], fixed[1] = (0, 0, 0), np.array(shape) - 1
    moving = fixed + RNG.standard_normal((30, 3))
    sampled = np.stack([map_coordinates(step_vox[..., c], fixed.T) for c in range(3)], axis=-1)
    expected = np.linalg.norm((fixed + sampled - moving) * spacing, axis=1)
    found = landmark_errors_mm(
        (step_vox * spacing).astype(np.float32), grid, fixed * spacing, moving * spacing
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # mm


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 40, 2)])
def test_thin_images_are_sampled_too(shape):
    displacement = np.full((*shape, 3), 1.5, np.float32)
    point = np.array([[0.5, 1, 1]])
    found = landmark_errors_mm(displacement, ImageGrid(shape, np.eye(4)), point, point + 1.5)
    np.testing.assert_allclose(found, 0, rtol=0, atol=1e-6)  # mm


def test_inside_ends_at_the_outer_voxel_centres(make_grid):
    grid = make_grid("oblique")
    last = np.array(grid.shape) - 1
    voxels = np.array([[0, 0, 0], last, last + np.array([0.1, 0, 0]), (5, -0.1, 5), (5, 5, 5)])
    found = inside(grid.world_from_voxel(voxels), grid)
    np.testing.assert_array_equal(found, [True, True, False, False, True])
