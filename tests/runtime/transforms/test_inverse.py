import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import map_coordinates

from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid, jacobian_determinant
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.transforms import inverse_consistency, invert
from rwcnet_runtime.volumes import write_displacement

LPS = LPS_FROM_RAS.diagonal()[:3]


def _voxels(shape):
    return np.moveaxis(np.indices(shape), 0, -1)


def _moved(displacement_mm, grid, points):
    voxels = np.moveaxis(grid.voxel_from_world(points), -1, 0)
    steps = [
        map_coordinates(displacement_mm[..., c], voxels, order=1, mode="nearest") for c in range(3)
    ]
    return points + np.stack(steps, axis=-1)


def test_a_moving_voxel_goes_to_the_fixed_image_and_back(pair):
    inverse = invert(pair.displacement_mm, pair.fixed.grid, pair.moving.grid)
    grid = pair.moving.grid
    assert inverse.displacement_mm.shape == (*grid.shape, 3)
    assert inverse.displacement_mm.dtype == np.float32
    y = grid.world_from_voxel(_voxels(grid.shape))
    x = y + inverse.displacement_mm
    voxels = pair.fixed.grid.voxel_from_world(x)
    inside = ((voxels >= 0) & (voxels <= np.array(pair.fixed.grid.shape) - 1)).all(axis=-1)
    assert inside.mean() > 0.3
    miss = grid.voxel_from_world(_moved(pair.displacement_mm, pair.fixed.grid, x)) - _voxels(
        grid.shape
    )
    length = np.linalg.norm(miss, axis=-1)[inside]
    assert length.max() < 0.06  # moving voxels
    assert jacobian_determinant(pair.displacement_mm, pair.fixed.grid).min() > 0
    report = inverse.report
    assert report["residual_vox"]["mean"] == pytest.approx(length.mean(), abs=0.003)  # voxels
    assert report["not_found_percent"] == 0
    assert report["outside_percent"] == pytest.approx(100 * (1 - inside.mean()), abs=8)  # %


def test_itk_reads_it_as_the_way_back(pair, tmp_path):
    inverse = invert(pair.displacement_mm, pair.fixed.grid, pair.moving.grid)
    write_displacement(tmp_path / "forward.nii.gz", pair.displacement_mm, pair.fixed)
    write_displacement(tmp_path / "back.nii.gz", inverse.displacement_mm, pair.moving)
    forward, back = (
        read_initial_transform(tmp_path / name) for name in ("forward.nii.gz", "back.nii.gz")
    )
    voxels = _voxels(pair.fixed.grid.shape)[4:-4:5, 4:-4:5, 4:-4:5].reshape(-1, 3)
    on_the_way = pair.inside()[tuple(voxels.T)]
    points = pair.fixed.grid.world_from_voxel(voxels[on_the_way]) * LPS
    again = [back.TransformPoint(forward.TransformPoint(point)) for point in points.tolist()]
    assert len(again) > 20
    # mm: the inverse is known at voxels, and interpolated between them
    np.testing.assert_allclose(again, points, rtol=0, atol=0.3)


def test_a_linear_map_is_inverted_everywhere(make_grid):
    fixed, moving = make_grid("oblique"), make_grid("LAS", scale=1.3, centre=(5, 6, 7))
    angle = np.deg2rad(120)  # where h <- -d(y + h) diverges
    matrix = np.array(
        [
            [np.cos(angle), -np.sin(angle), 0.1],
            [np.sin(angle), np.cos(angle), 0],
            [0.05, 0, 1.1],
        ]
    )
    x = fixed.world_from_voxel(_voxels(fixed.shape))
    displacement = (x @ matrix.T + (10, -5, 3) - x).astype(np.float32)
    inverse = invert(displacement, fixed, moving)
    y = moving.world_from_voxel(_voxels(moving.shape))
    expected = (y - (10, -5, 3)) @ np.linalg.inv(matrix).T - y
    np.testing.assert_allclose(inverse.displacement_mm, expected, rtol=0, atol=0.01)  # mm
    assert 0 < inverse.report["outside_percent"] < 100


def _stretch(slope):
    """A map of 40^3 voxels of 1 mm that changes slope along i, from 1 to `slope` and back."""
    grid = ImageGrid((40, 40, 40), np.eye(4))
    i = np.arange(40.0)
    step = np.interp(i, [0, 15, 20, 25, 39], [0, 0, 5 * (slope - 1), 0, 0])
    displacement = np.zeros((*grid.shape, 3), np.float32)
    displacement[..., 0] = step[:, None, None]
    return displacement, grid


def test_tissue_stretched_beyond_where_the_iteration_converges_is_found():
    displacement, grid = _stretch(1.9)  # within five voxels from 1.9 to 0.1
    displacement[..., 1] = 1.6 * displacement[..., 0]
    found = invert(displacement, grid, grid).report
    assert found["not_found_percent"] == 0
    assert found["residual_vox"]["max"] <= 0.06


def test_folds_are_counted_and_left_out_of_the_residual():
    displacement, grid = _stretch(3.0)  # and from 3 to -1: it folds
    inverse = invert(displacement, grid, grid)
    assert (jacobian_determinant(displacement, grid) < 0).any()
    assert inverse.report["residual_vox"]["mean"] < 0.1  # voxels
    assert np.isfinite(inverse.displacement_mm).all()


def test_two_images_that_share_nothing_have_no_residual(make_grid):
    fixed, moving = make_grid("RAS"), make_grid("RAS", centre=(500, 0, 0))
    inverse = invert(np.zeros((*fixed.shape, 3), np.float32), fixed, moving)
    assert inverse.report == {"outside_percent": 100.0}
    np.testing.assert_allclose(inverse.displacement_mm, 0, rtol=0, atol=1e-3)  # mm


def test_a_map_onto_a_plane_ends(make_grid):
    grid = ImageGrid((12, 13, 14), np.eye(4))
    displacement = np.zeros((*grid.shape, 3), np.float32)
    displacement[..., 0] = -np.arange(12)[:, None, None]
    inverse = invert(displacement, grid, grid)
    assert "residual_vox" not in inverse.report  # the determinant is 0 everywhere
    assert inverse.report["not_found_percent"] > 50


def test_a_field_off_its_grid_is_refused(make_grid):
    with pytest.raises(ValueError, match=r"displacement_mm has shape .* wanted \(36, 32, 28, 3\)"):
        invert(np.zeros((4, 4, 4, 3), np.float32), make_grid("RAS"), make_grid("RAS"))


def test_consistency_is_how_far_points_come_back(pair):
    fixed, moving = pair.fixed.grid, pair.moving.grid
    inverse = invert(pair.displacement_mm, fixed, moving)
    good = inverse_consistency(pair.displacement_mm, fixed, inverse.displacement_mm, moving)
    assert good["mean_mm"] < 0.1
    assert good["max_mm"] < 0.5
    shifted = inverse.displacement_mm + np.float32([0, 3, 4])
    bad = inverse_consistency(pair.displacement_mm, fixed, shifted, moving)
    assert bad["mean_mm"] == pytest.approx(5, abs=0.1)
    expected = 100 * pair.inside()[::2, ::2, ::2].mean()
    assert good["compared_percent"] == pytest.approx(expected, abs=0.01)


def test_consistency_of_what_never_meets_is_only_that(make_grid):
    fixed, moving = make_grid("RAS"), make_grid("RAS", centre=(500, 0, 0))
    zero = np.zeros((*fixed.shape, 3), np.float32)
    assert inverse_consistency(zero, fixed, zero, moving) == {"compared_percent": 0}


def test_the_same_whatever_the_number_of_threads(make_pair):
    pair = make_pair()
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 4):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(invert(pair.displacement_mm, pair.fixed.grid, pair.moving.grid))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(found[0].displacement_mm, found[1].displacement_mm)
