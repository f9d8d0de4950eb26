import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from rwcnet_runtime.evaluation.surface import _areas, hd95_per_label

# What the package surface-distance 0.1 returns for `blobs(seed)` at spacing (1, 1, 1).
PUBLISHED = {0: 1.0, 1: 2.236068, 2: 4.0, 3: 1.0, 4: 1.414214, 5: 4.123106}


def blobs(seed):
    """Two blobby masks that differ, from noise; every kind of neighbourhood is in them."""
    noise = np.random.default_rng(seed)
    smooth = gaussian_filter(noise.random((24, 26, 28)), 1 + seed % 3)
    other = gaussian_filter(smooth + 0.05 * noise.standard_normal(smooth.shape), 1)
    return tuple(
        (image > np.quantile(image, share)).astype(np.int32)
        for image, share in ((smooth, 0.8), (other, 0.75))
    )


@pytest.mark.parametrize(("seed", "expected"), PUBLISHED.items())
def test_distances_are_those_of_surface_distance(seed, expected):
    assert hd95_per_label(*blobs(seed))[1] == pytest.approx(expected, abs=1e-5)  # voxels


def test_shifted_cubes():
    fixed, warped = np.zeros((2, 20, 20, 20), np.int32)
    fixed[3:9, 3:9, 3:9] = 7
    warped[7:13, 3:9, 3:9] = 7
    assert hd95_per_label(fixed, warped) == pytest.approx({7: 4}, abs=1e-6)  # voxels
    assert hd95_per_label(fixed, fixed) == {7: 0}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flipped", [False, True])
def test_surfaces_at_the_border_of_the_image_count(axis, flipped):
    fixed, warped = np.zeros((2, 20, 20, 20), np.int32)
    fixed[4:9], warped[:9] = 1, 1
    turned = [np.moveaxis(m[::-1] if flipped else m, 0, axis) for m in (fixed, warped)]
    assert hd95_per_label(*turned) == pytest.approx({1: 4}, abs=1e-6)  # voxels


def test_a_few_outliers_do_not_count():
    fixed = np.zeros((30, 30, 30), np.int32)
    fixed[5:20, 5:20, 5:20] = 1
    warped = fixed.copy()
    warped[28, 28, 28] = 1
    assert hd95_per_label(fixed, warped) == {1: 0}


def test_labels_are_measured_each_for_itself():
    fixed, warped = blobs(1)
    several = [fixed + 4 * np.roll(fixed, 3, 0), warped + 4 * np.roll(warped, 3, 0)]
    found = hd95_per_label(*several)
    assert sorted(found) == [1, 4, 5]
    for label, distance in found.items():
        alone = hd95_per_label(*((m == label).astype(np.int32) for m in several))
        assert distance == alone[1]


def test_a_missing_label_is_infinitely_far():
    fixed, warped = blobs(0)
    assert hd95_per_label(fixed, 2 * warped) == {1: math.inf, 2: math.inf}
    assert math.isnan(hd95_per_label(fixed, warped, [5])[5])


def test_areas_of_known_surfaces():
    areas = _areas()
    faces = [0b00001111, 0b11110000, 0b00110011, 0b01010101]
    np.testing.assert_allclose(areas[faces], 1, rtol=0, atol=1e-12)  # voxel faces
    np.testing.assert_allclose(areas, areas[::-1], rtol=0, atol=1e-12)  # inside and outside
    assert areas[0] == areas[255] == 0
