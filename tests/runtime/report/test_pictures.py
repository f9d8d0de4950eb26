import base64

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.report.pictures import (
    FOLD_COLOUR,
    closest_affine,
    grid_lines,
    signed,
    volume_change,
)
from rwcnet_runtime.report.planes import choose_planes

SHAPE = (40, 30, 20)
GRID = ImageGrid(SHAPE, np.diag([2.0, 1.0, 3.0, 1.0]))


@pytest.fixture
def axial():
    image = np.zeros(SHAPE, np.float32)
    image[20, 15, 10] = 1
    return choose_planes(image, GRID)[0]


def pixels(uri, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(base64.b64decode(uri.partition(",")[2]))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def numbers(line):
    return np.array([pair.split(",") for pair in line.split()], float)


def test_nothing_is_dark_and_more_is_warmer(tmp_path):
    picture = pixels(signed(np.array([[-1.0, 0.0, 1.0]], np.float32), 0.5), tmp_path).astype(int)
    below, none, above = picture[0]
    assert none.max() < 40
    assert below[2] > below[0]  # blue
    assert above[0] > above[2]  # red


def test_a_fold_has_its_own_colour(axial, tmp_path):
    determinant = np.ones(SHAPE, np.float32)
    determinant[0, 0, axial.index] = -0.1  # left back, at the bottom right of the picture
    picture = pixels(volume_change(axial, determinant), tmp_path)
    assert tuple(picture[-1, -1]) == FOLD_COLOUR
    assert tuple(picture[0, 0]) != FOLD_COLOUR


def test_an_affine_displacement_leaves_the_grid_straight(axial):
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    displacement = (index @ np.diag([0.1, -0.2, 0.05]) + (7, 30, -4)).astype(np.float32)
    lines = grid_lines(axial, displacement, closest_affine(displacement), GRID)
    for line in map(numbers, lines):
        assert np.ptp(line, axis=0).min() < 0.11  # mm; coordinates have one digit after the point


def test_a_step_to_the_right_goes_to_the_left_of_the_picture(axial):
    displacement = np.zeros((*SHAPE, 3), np.float32)
    displacement[20, :, :, 0] = 1.5  # mm
    none = np.zeros((4, 3))
    at_rest = grid_lines(axial, np.zeros_like(displacement), none, GRID)
    moved = grid_lines(axial, displacement, none, GRID)
    steps = np.concatenate([numbers(b) - numbers(a) for a, b in zip(at_rest, moved, strict=True)])
    assert steps[:, 0].min() == pytest.approx(-1.5, abs=0.11)  # mm
    assert np.abs(steps[:, 1]).max() == 0
