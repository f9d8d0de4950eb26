import numpy as np
import pytest

from rwcnet_runtime.metrics import (
    correlation,
    flow_distance,
    local_correlation,
    mutual_information,
)

A = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
B = np.random.default_rng(1).random((20, 20, 20)).astype(np.float32)


def test_correlation_of_known_arrays():
    assert correlation(A, 3 * A + 2) == pytest.approx(1, abs=1e-5)
    assert correlation(A, -A) == pytest.approx(-1, abs=1e-5)
    assert correlation(A, B) == pytest.approx(np.corrcoef(A.ravel(), B.ravel())[0, 1], abs=1e-5)
    assert correlation(A, np.ones_like(A)) == 0


def test_mutual_information_sees_through_contrast():
    # Of an image with itself it is the entropy: that of 32 equally full bins is log(32) nats.
    assert mutual_information(A, A) == pytest.approx(np.log(32), abs=0.01)
    assert mutual_information(A, 1 - A) == pytest.approx(mutual_information(A, A), abs=1e-9)
    assert mutual_information(A, B) < 0.1


def test_distances_of_flows_are_lengths_at_a_voxel():
    a = np.zeros((1, 3, 10, 10, 10), np.float32)
    b = a.copy()
    b[0, :2, 0, 0, 0] = 3, 4
    expected = (5 / 1000, 0.0, 5.0)  # voxels; one of a thousand
    assert flow_distance(a, b) == pytest.approx(expected, abs=1e-6)
    assert flow_distance(a[0], b[0]) == pytest.approx(expected, abs=1e-6)


def blobs(seed):
    """Detail of a few voxels within 0..1."""
    image = np.random.default_rng(seed).random((24, 30, 21), np.float32)
    for axis in range(3):
        image = (image + np.roll(image, 1, axis) + np.roll(image, -1, axis)) / 3
    return (image - image.min()) / np.ptp(image)


def test_local_correlation_of_an_image_with_itself_is_1():
    assert local_correlation(blobs(0), blobs(0)) == pytest.approx(1, abs=0.03)


def test_local_correlation_sees_one_anatomy_in_two_contrasts():
    inverted = blobs(0)
    inverted[8:16] = 1 - inverted[8:16]  # in one block of three
    assert correlation(blobs(0), inverted) < 0.5
    assert local_correlation(blobs(0), inverted) == pytest.approx(1, abs=0.03)


def test_local_correlation_does_not_take_a_shared_outline_for_detail():
    outline = np.zeros((24, 30, 21), np.float32)
    outline[8:, 8:, 8:] = 1  # along the blocks
    one, other = (0.7 * outline + 0.3 * blobs(seed) * outline for seed in (0, 1))
    assert correlation(one, other) > 0.9
    assert local_correlation(one, other) < 0.1


def test_local_correlation_with_what_is_empty_is_0():
    nothing = np.zeros((24, 30, 21), np.float32)
    assert local_correlation(blobs(0), nothing) == 0
    assert local_correlation(nothing, nothing) == 0


def test_local_correlation_counts_strong_detail_most():
    faint = 0.1 * blobs(1)
    one, other = 0.1 * blobs(0), faint
    one[:8], other[:8] = blobs(2)[:8], blobs(2)[:8]  # the same in one block of three
    assert local_correlation(one, other) > 0.9
