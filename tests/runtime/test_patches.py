import numpy as np
import pytest

from rwcnet_runtime import patches


@pytest.mark.parametrize("shape", [(30, 41, 64), (20, 20, 20), (129, 33, 32), (32, 32, 33)])
@pytest.mark.parametrize(("patch", "halo"), [(32, 8), (32, 0), (24, 5)])
def test_patches_answer_for_every_voxel_once(shape, patch, halo):
    counts = np.zeros(shape, int)
    edges = set()
    for place in patches.lay_out(shape, patch, halo):
        counts[place.own] += 1
        edges.add(tuple(s.stop - s.start for s in place.read))
        for read, own, inner, length in zip(place.read, place.own, place.inner, shape, strict=True):
            assert 0 <= read.start < read.stop <= length
            assert read.stop - read.start <= patch
            # The halo is there on every side where the image goes on.
            assert own.start - read.start >= halo or own.start == 0
            assert read.stop - own.stop >= halo or own.stop == length
            assert (inner.start, inner.stop) == (own.start - read.start, own.stop - read.start)
    assert (counts == 1).all()
    assert len(edges) == 1  # one size, so that they go through a graph together


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_a_local_filter_in_patches_equals_the_whole(monkeypatch, at_once):
    monkeypatch.setattr(patches, "VOXELS_AT_ONCE", at_once)
    image = np.random.default_rng(0).random((1, 2, 40, 50, 30), dtype=np.float32)

    def blur(arrays):
        return [sum(np.roll(arrays[0], n, axis) for n in (-2, 0, 2) for axis in (2, 3, 4))]

    places = patches.lay_out(image.shape[2:], 24, 4)
    *_, (done, count, joined) = patches.run_in_patches(blur, [image], places)
    assert done == count == 12
    inside = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(joined[0][inside], blur([image])[0][inside], atol=1e-6)


def test_a_single_patch_goes_straight_through():
    image = np.random.default_rng(0).random((1, 2, 12, 8, 10), dtype=np.float32)
    places = patches.lay_out(image.shape[2:], None)
    # Results of a coarser grid than the image's: there is nothing to join.
    ((done, count, (every, other)),) = patches.run_in_patches(
        lambda arrays: [arrays[0], arrays[0][..., ::2, ::2, ::2]], [image], places
    )
    assert done == count == 1
    np.testing.assert_array_equal(every, image)
    np.testing.assert_array_equal(other, image[..., ::2, ::2, ::2])
