from pathlib import Path

import numpy as np

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.labels import warp_labels
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.volumes import LabelMap

RNG = np.random.default_rng(0)


def test_labels_move_like_points(make_grid):
    """A label placed in the world is found where the displacement says, over unlike grids."""
    fixed, moving = make_grid("oblique"), make_grid("PSR", scale=0.9, centre=(2, -1, 3))
    # `PSR` is brought to RAS by whoever reads a file; a map in memory may lie anyhow.
    data = RNG.integers(1, 1000, moving.shape).astype(np.int32)
    displacement = RNG.uniform(-6, 6, (*fixed.shape, 3)).astype(np.float32)
    warped = warp_labels(LabelMap(data, moving, Path("moving")), displacement, fixed)
    outside = 0
    for _ in range(200):
        x = tuple(RNG.integers(0, fixed.shape))
        where = moving.voxel_from_world(fixed.world_from_voxel(x) + displacement[x])
        nearest = np.round(where).astype(int)
        is_inside = ((nearest >= 0) & (nearest < moving.shape)).all()
        assert warped[x] == (data[tuple(nearest)] if is_inside else 0)
        outside += not is_inside
    assert 0 < outside < 200


def test_half_way_goes_up_as_in_learn2reg():
    grid = ImageGrid((4, 2, 2), np.eye(4))
    data = np.arange(1, 5, dtype=np.int32)[:, None, None].repeat(2, 1).repeat(2, 2)
    half = np.zeros((4, 2, 2, 3), np.float32)
    half[..., 0] = 0.5
    warped = warp_labels(LabelMap(data, grid, Path("moving")), half, grid)
    np.testing.assert_array_equal(warped[:, 0, 0], [2, 3, 4, 0])


def test_warped_labels_agree_with_warped_images(make_grid):
    fixed, moving = make_grid("anisotropic"), make_grid("LAS")
    displacement = Mapping(fixed, moving).displacement_mm()
    ball = np.linalg.norm(np.moveaxis(np.indices(moving.shape), 0, -1) - 14, axis=-1) < 9
    labels = LabelMap(ball.astype(np.int32), moving, Path("moving"))
    image = Mapping(fixed, moving).resample(ball.astype(np.float32))
    warped = warp_labels(labels, displacement, fixed)
    assert ((image > 0.5) != (warped > 0)).mean() < 0.01
