import numpy as np
import pytest

from rwcnet_runtime.metrics import correlation, flow_distance, mutual_information

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
