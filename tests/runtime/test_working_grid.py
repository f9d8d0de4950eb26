import json

import numpy as np
import pytest

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.working_grid import (
    MOST_VOXELS,
    WorkingGrid,
    block_means,
    choose_working_grid,
    coarsened,
    foreground_box,
    in_fixed_voxels,
    preview,
)


def _grid(shape, spacing):
    return ImageGrid(shape, np.diag([*spacing, 1.0]))


def _everything(grid):
    return tuple(slice(0, n) for n in grid.shape)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((256, 256, 160), (1, 1, 1)),  # brain, abdomen of thick slices, hippocampus
        ((152, 183, 27), (1.29, 1.29, 5)),
        ((35, 55, 34), (1, 1, 1)),
        ((128, 128, 80), (0.1, 0.1, 0.1)),  # a mouse is not coarsened away
    ],
)
def test_a_grid_that_is_fine_as_it_is_is_taken_itself(shape, spacing):
    fixed = _grid(shape, spacing)
    found = choose_working_grid(fixed, _everything(fixed))
    assert found.grid is fixed
    image = np.zeros(shape, np.float32)
    assert np.shares_memory(found.average(image), image)
    flow = np.zeros((3, *shape), np.float32)
    assert found.extend(flow) == (flow, fixed)


@pytest.mark.parametrize(
    ("shape", "spacing", "factors"),
    [
        ((512, 512, 300), (0.7, 0.7, 1.0), (2, 2, 2)),
        ((512, 512, 100), (0.3, 0.3, 3.0), (2, 2, 1)),  # slices stay as they are
        ((320, 448, 448), (0.5, 0.5, 0.5), (2, 2, 2)),
    ],
)
def test_too_many_voxels_become_fewer_of_like_edges(shape, spacing, factors):
    fixed = _grid(shape, spacing)
    found = choose_working_grid(fixed, _everything(fixed))
    assert found.factors == factors
    assert np.prod(found.grid.shape) <= MOST_VOXELS
    assert "million voxels" in json.loads(json.dumps(found.describe()))["why"]


def test_little_memory_makes_voxels_larger_and_too_little_is_said():
    fixed = _grid((64, 64, 64), (1, 1, 1))
    found = choose_working_grid(fixed, _everything(fixed), fits=lambda voxels: voxels <= 11_000)
    assert found.factors == (3, 3, 3)
    assert "memory" in found.describe()["why"]
    with pytest.raises(InputError, match="the memory of this machine does not hold"):
        choose_working_grid(fixed, _everything(fixed), fits=lambda voxels: False)


@pytest.mark.parametrize(
    ("spacing", "factors"), [(0.5, (1, 1, 1)), (2, (3, 3, 1)), (5, (7, 7, 1)), (9, (13, 13, 2))]
)
def test_a_wanted_spacing_is_met_by_whole_voxels_and_never_made_finer(spacing, factors):
    fixed = _grid((128, 128, 27), (0.7, 0.7, 5))
    assert choose_working_grid(fixed, _everything(fixed), spacing=spacing).factors == factors


@pytest.mark.parametrize("spacing", [0, -1, float("nan"), float("inf"), 200])
def test_a_spacing_that_is_none_is_refused(spacing):
    fixed = _grid((128, 128, 27), (0.7, 0.7, 5))
    with pytest.raises(InputError, match=f"--spacing {spacing:g}"):
        choose_working_grid(fixed, _everything(fixed), spacing=spacing)


def test_block_means_are_of_what_is_there_of_a_block():
    data = np.random.default_rng(0).normal(size=(7, 6, 5)).astype(np.float32)
    means = block_means(data, (3, 2, 1))
    assert means.shape == (3, 3, 5)
    np.testing.assert_allclose(means[1, 2, 3], data[3:6, 4:6, 3].mean(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(means[2, 2, 3], data[6:, 4:6, 3].mean(), rtol=0, atol=1e-6)


def _head(shape, noise=0.0, seed=0):
    """A ball of 1 in the corner of 0, with Rician noise."""
    i, j, k = np.indices(shape)
    inside = (i - 50) ** 2 + (j - 40) ** 2 + (k - 30) ** 2 < 20**2
    real, imaginary = np.random.default_rng(seed).normal(0, noise, (2, *shape))
    return np.hypot(inside + real, imaginary).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_foreground_is_found_in_noise_and_its_box_holds_all_of_it(noise):
    fixed = _grid((120, 100, 90), (1, 1, 1))
    coarse = preview(fixed)
    box = in_fixed_voxels(foreground_box(coarse.average(_head(fixed.shape, noise))), coarse)
    for found, (first, last) in zip(box, [(31, 69), (21, 59), (11, 49)], strict=True):
        # To a block of 3 voxels; a grid keeps 12 more.
        assert abs(found.start - first) <= 3
        assert abs(found.stop - 1 - last) <= 3
    grid = choose_working_grid(fixed, box)
    assert grid.grid.shape < fixed.shape
    assert "around the foreground" in grid.describe()["why"]


def test_the_foreground_of_both_images_stays():
    a, b = np.zeros((2, 30, 30, 30), np.float32)
    a[3:9, 10:20, 10:20] = 1
    b[12:21, 12:22, 10:20] = 1
    assert foreground_box(a, b) == (slice(3, 21), slice(10, 22), slice(10, 20))


def test_tissue_of_a_tenth_of_the_brightness_is_foreground():
    image = np.zeros((30, 30, 30), np.float32)
    image[10:20, 10:20, 10:20] = 1
    image[22:25, 10:20, 10:20] = 0.15
    assert foreground_box(image)[0] == slice(10, 25)


def test_an_image_without_background_is_kept_whole():
    fixed = _grid((60, 60, 60), (1, 1, 1))
    tissue = np.random.default_rng(0).uniform(0.3, 1, fixed.shape).astype(np.float32)
    assert choose_working_grid(fixed, foreground_box(tissue)).grid is fixed
    constant = np.ones(fixed.shape, np.float32)
    assert choose_working_grid(fixed, foreground_box(constant)).grid is fixed


def test_the_mean_of_a_block_lies_where_its_voxels_do(fixed_grid):
    # A linear image tells the place: its block means are its values at the blocks' centres.
    points = fixed_grid.world_from_voxel(np.moveaxis(np.indices(fixed_grid.shape), 0, -1))
    slope = np.array([0.5, -0.3, 0.2])
    working = WorkingGrid(fixed_grid, (slice(3, 23), slice(4, 24), slice(5, 21)), (2, 4, 2))
    means = working.average((points @ slope).astype(np.float32))
    centres = working.grid.world_from_voxel(np.moveaxis(np.indices(working.grid.shape), 0, -1))
    assert means.shape == working.grid.shape == (10, 5, 8)
    np.testing.assert_allclose(means, centres @ slope, rtol=0, atol=1e-4)  # of about 40


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 3, 1)])
def test_outside_of_the_crop_the_border_of_the_flow_goes_on(factors):
    fixed = _grid((40, 36, 30), (1.5, 1.0, 2.0))
    working = WorkingGrid(fixed, (slice(5, 31), slice(7, 28), slice(3, 30)), factors)
    flow = np.random.default_rng(0).normal(size=(3, *working.grid.shape)).astype(np.float32)
    whole, grid = working.extend(flow)
    found = Mapping(fixed, fixed, flow_vox=whole, flow_grid=grid).displacement_mm()
    # The voxel of the flow nearest to a fixed voxel, which blocks hold in their middle.
    for voxel in [(0, 0, 0), (39, 35, 29), (0, 17, 10), (17, 0, 29)]:
        place = working.grid.voxel_from_world(fixed.world_from_voxel(voxel))
        clipped = np.clip(place, 0, np.array(working.grid.shape) - 1)
        low = np.minimum(clipped.astype(int), np.array(working.grid.shape) - 2)
        share = clipped - low
        expected = np.zeros(3)
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(corner, share, 1 - share))
            expected += weight * flow[:, *(low + corner)]
        expected *= working.grid.spacing
        np.testing.assert_allclose(found[voxel], expected, rtol=0, atol=1e-4)  # mm
    steps = np.abs(np.diff(found, axis=0)).max()
    within = np.abs(np.diff(found[5:31, 7:28, 3:30], axis=0)).max()
    assert steps <= within + 1e-4  # mm: no tear at the crop


def test_a_much_finer_moving_image_is_averaged_and_one_as_fine_is_left_alone():
    moving = _grid((64, 64, 32), (0.5, 0.5, 1.0))
    stripes = np.zeros(moving.shape, np.float32)
    stripes[::2] = 1  # seen every fourth voxel these would be all 1
    data, grid = coarsened(stripes, moving, np.array([2.0, 2.0, 2.0]))
    assert grid.shape == (16, 16, 16)
    np.testing.assert_allclose(data, 0.5, rtol=0, atol=1e-6)
    same, there = coarsened(stripes, moving, np.array([0.7, 0.6, 1.4]))
    assert same is stripes or np.shares_memory(same, stripes)
    assert there is moving
