import numpy as np
import pytest

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade, downsample, every


def test_downsample_averages_blocks():
    image = np.arange(4 * 6 * 8, dtype=np.float32).reshape(1, 1, 4, 6, 8)
    small = downsample(image, 2)
    assert small.shape == (1, 1, 2, 3, 4)
    assert small[0, 0, 1, 2, 3] == pytest.approx(image[0, 0, 2:4, 4:6, 6:8].mean(), abs=1e-5)


def test_every_keeps_the_first_voxel_of_each_block():
    image = np.arange(4 * 6 * 8, dtype=np.float32).reshape(1, 1, 4, 6, 8)
    small = every(image, 2)
    assert small.shape == (1, 1, 2, 3, 4)
    assert small[0, 0, 1, 2, 3] == image[0, 0, 2, 4, 6]
    np.testing.assert_array_equal(every(image, 1), image)


def test_progress_reaches_the_end_of_each_stage_and_state_does_not_leak():
    cascade = Cascade(Bundle.open())
    image = np.random.default_rng(0).random((1, 1, 32, 40, 24), dtype=np.float32)
    told = []
    first, seconds = cascade.run(image, image[:, :, ::-1].copy(), lambda *step: told.append(step))
    assert [step for step in told if step[1] == 1.0] == [(f"stage{n}", 1.0) for n in (1, 2, 3)]
    assert {"stage1", "stage2", "stage3", "chain"} == seconds.keys()
    cascade.run(image[..., :16], image[..., :16])
    again, _ = cascade.run(image, image[:, :, ::-1].copy())
    np.testing.assert_array_equal(first, again)
