import numpy as np
import pytest

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.report.planes import LARGEST, choose_planes

SPACING = (1.0, 2.0, 4.0)


@pytest.fixture
def planes():
    """Of an image that is bright in one voxel."""
    image = np.zeros((20, 30, 10), np.float32)
    image[3, 25, 8] = 1
    return choose_planes(image, ImageGrid(image.shape, np.diag([*SPACING, 1.0])))


def test_they_go_through_what_is_bright(planes):
    assert [plane.index for plane in planes] == [8, 25, 3]


@pytest.mark.parametrize("n", range(3))
def test_the_patients_right_and_head_are_where_the_marks_say(planes, n):
    plane = planes[n]
    volume = np.zeros((20, 30, 10), np.float32)
    # Ends of the axes to the right, the front and the head, and the letters there.
    corners = {0: "R", 1: "A", 2: "S"}
    volume[np.ix_(*(np.arange(size - 2, size) for size in volume.shape))] = 1
    volume = np.broadcast_to(volume.max(axis=plane.through, keepdims=True), volume.shape)
    picture = plane.cut(volume)
    left, _, top, _ = plane.marks
    assert picture[:2, :2].all()
    assert not picture[2:].any()
    assert not picture[:, 2:].any()
    assert (left, top) == (corners[plane.across], corners[plane.down])


def test_edges_are_in_millimetres(planes):
    assert [plane.extent_mm for plane in planes] == [(20, 60), (20, 40), (60, 40)]


def test_a_large_slice_is_made_smaller_and_keeps_its_brightness():
    image = np.random.default_rng(0).random((2 * LARGEST + 1, 40, 8), np.float32)
    plane = choose_planes(image, ImageGrid(image.shape, np.eye(4)))[0]
    picture = plane.picture(image)
    assert picture.shape == (40, 214)  # a third, rounded up
    assert picture[:, 1:].mean() == pytest.approx(image[..., plane.index].mean(), abs=0.01)
