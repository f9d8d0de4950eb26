import dataclasses

import numpy as np
import pytest

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade, downsample, every
from rwcnet_runtime.errors import BackendError


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


def test_a_precision_that_a_cpu_cannot_run_is_refused_before_a_graph_is_opened(tmp_path):
    packaged = Bundle.open()
    stages = {f"bf16/stage{n}.onnx": "" for n in (1, 2, 3)}
    manifest = dataclasses.replace(packaged.manifest, files=packaged.manifest.files | stages)
    bundle = dataclasses.replace(packaged, folder=tmp_path, manifest=manifest)
    with pytest.raises(BackendError, match=r"does not run bf16 graphs on a CPU: choose fp32 or"):
        Cascade(bundle, "bf16")
    with pytest.raises(BackendError, match="holds no int8 stages, only bf16, fp16, fp32"):
        Cascade(bundle, "int8")


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
