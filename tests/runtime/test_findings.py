import numpy as np
import pytest

from rwcnet_runtime.findings import findings
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping

SHAPE = (16, 12, 10)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def found(flow_vox, start_vox=0):
    """Of a block in a moving image that begins some voxels further to the right."""
    fixed_grid = ImageGrid(SHAPE, AFFINE)
    affine = AFFINE.copy()
    affine[0, 3] = 2.0 * start_vox
    flow = np.zeros((3, *SHAPE), np.float32)
    flow[0] = flow_vox
    mapping = Mapping(fixed_grid, ImageGrid(SHAPE, affine), flow_vox=flow)
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    image[:4] = 0
    start = Mapping(fixed_grid, mapping.moving)
    images = image, start.resample(image), mapping.resample(image)
    return findings(*images, mapping, mapping.displacement_mm(), fixed_grid)


def test_what_begins_elsewhere_and_is_moved_back_is_alike_after():
    report = found(flow_vox=3, start_vox=3)
    assert report["similarity"]["local_correlation"]["before"] < 0.3
    assert report["similarity"]["local_correlation"]["after"] > 0.9
    assert report["displacement_mm"]["max"] == pytest.approx(6, abs=1e-4)  # mm
    assert report["flow_vox"]["p99"] == pytest.approx(3, abs=1e-4)  # voxels


def test_what_leaves_the_moving_image_is_out_of_view():
    # 4 to 15 are foreground; those that land on 16 and beyond are lost.
    assert found(flow_vox=3)["overlap"]["in_view_percent"] == pytest.approx(100 * 9 / 12)


def test_squeezed_space_shows_in_the_determinant_and_folds_in_both_measures():
    ramp = -1.5 * np.arange(16, dtype=np.float32).reshape(16, 1, 1)
    report = found(flow_vox=ramp)
    assert report["jacobian_determinant"]["p1"] == pytest.approx(-0.5, abs=1e-3)
    assert report["jacobian_determinant"]["folded_percent"] == 100
    assert report["jacobian_determinant"]["non_diffeomorphic_percent"] == pytest.approx(50, abs=0.1)
