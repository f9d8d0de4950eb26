import numpy as np
import pytest

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.preprocess import Padding, normalise


def test_intensities_are_scaled_between_the_percentiles_of_the_foreground():
    # 1001 foreground voxels 1000, 1001 .. 2000, whose percentiles are whole numbers.
    data = np.concatenate([np.full(500, -5), np.arange(1000, 2001)]).astype(np.float32)
    result = normalise(data)
    lo, hi = 1005, 1995
    np.testing.assert_allclose(result, np.clip((data - lo) / (hi - lo), 0, 1), rtol=0, atol=1e-6)
    assert result.dtype == np.float32
    assert (result.min(), result.max()) == (0, 1)


def test_the_amount_of_background_and_a_linear_scanner_scale_do_not_matter():
    tissue = np.random.default_rng(0).normal(100, 10, size=5000).astype(np.float32)
    little = np.concatenate([np.zeros(10, np.float32), tissue])
    much = np.concatenate([np.zeros(5000, np.float32), tissue])
    expected = normalise(little)[-5000:]
    np.testing.assert_array_equal(normalise(much)[-5000:], expected)
    np.testing.assert_allclose(normalise(3 * much - 7)[-5000:], expected, rtol=0, atol=1e-5)


def test_outliers_do_not_move_the_scale():
    data = np.arange(10_000, dtype=np.float32)
    spiked = data.copy()
    spiked[-3:] = 1e9
    np.testing.assert_allclose(normalise(spiked), normalise(data), rtol=0, atol=1e-3)


def test_a_fixed_range_is_the_same_for_every_image_and_not_clipped():
    data = np.array([-1000, -4e-3, 8000, 16e3, 20e3], np.float32)
    result = normalise(data, (-4e-3, 16e3))
    span = 16e3 + 4e-3
    expected = [(-1000 + 4e-3) / span, 0, (8000 + 4e-3) / span, 1, (20e3 + 4e-3) / span]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(normalise(np.full(3, 0.5, np.float32), (0, 1)), 0.5)


@pytest.mark.parametrize("data", [np.full(10, 3.0), np.repeat([0.0, 1.0], 10)])
def test_an_image_without_a_range_is_refused(data):
    with pytest.raises(InputError, match="wanted a range"):
        normalise(data.astype(np.float32))


@pytest.mark.parametrize("shape", [(13, 16, 30), (16, 32, 48), (1, 17, 15)])
def test_padding_reaches_the_multiple_and_is_removed_exactly(shape):
    padding = Padding.to_multiple(shape, 16)
    array = np.random.default_rng(0).uniform(1, 2, size=(2, *shape))
    padded = padding.apply(array)
    assert padded.shape[1:] == tuple(max(32, -(-old // 16) * 16) for old in shape)
    assert all(size % 16 == 0 for size in padded.shape[1:])
    assert padded.sum() == pytest.approx(array.sum(), rel=1e-12)  # zeros were added
    np.testing.assert_array_equal(padding.remove(padded), array)


def test_padding_is_even_with_the_odd_voxel_at_the_end():
    padding = Padding.to_multiple((13, 14, 16), 8)
    assert padding == Padding(before=(1, 1, 0), after=(2, 1, 0))
    padded = padding.apply(np.ones((13, 14, 16)))
    np.testing.assert_array_equal(padded[:, 8, 8], [0, *[1] * 13, 0, 0])
