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
