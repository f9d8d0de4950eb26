import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from rwcnet_runtime import patches
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.openvino import OpenVino
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import _STEP_VOX, Cascade, downsample, every, run_in_patches
from rwcnet_runtime.diffeomorphism import least_determinant
from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.geometry import ImageGrid


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


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_a_local_filter_in_patches_equals_the_whole(monkeypatch, at_once):
    monkeypatch.setattr(patches, "VOXELS_AT_ONCE", at_once)
    image = np.random.default_rng(0).random((1, 2, 40, 50, 30), dtype=np.float32)

    def blur(arrays):
        return [sum(np.roll(arrays[0], n, axis) for n in (-2, 0, 2) for axis in (2, 3, 4))]

    places = patches.lay_out(image.shape[2:], 24, 4)
    *_, (done, count, joined) = run_in_patches(OnnxRuntimeCpu(), blur, [image], places)
    assert done == count == 12
    inside = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(joined[0][inside], blur([image])[0][inside], atol=1e-6)


def test_a_single_patch_goes_straight_through():
    image = np.random.default_rng(0).random((1, 2, 12, 8, 10), dtype=np.float32)
    places = patches.lay_out(image.shape[2:], None)
    # Results of a coarser grid than the image's: there is nothing to join.
    ((done, count, (every, other)),) = run_in_patches(
        OnnxRuntimeCpu(), lambda arrays: [arrays[0], arrays[0][..., ::2, ::2, ::2]], [image], places
    )
    assert done == count == 1
    np.testing.assert_array_equal(every, image)
    np.testing.assert_array_equal(other, image[..., ::2, ::2, ::2])


def test_a_precision_that_a_backend_does_not_take_is_refused_before_a_graph_is_opened(tmp_path):
    bundle = dataclasses.replace(Bundle.open(), folder=tmp_path)
    with pytest.raises(BackendError, match="onnxruntime runs fp32 and fp16 here, not bf16: choose"):
        Cascade(bundle, "bf16")
    with pytest.raises(BackendError, match="openvino runs fp32 and bf16 here, not fp16: choose"):
        Cascade(bundle, "fp16", OpenVino())


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


def test_a_velocity_is_integrated_as_a_differential_equation_says():
    """Euler's method with many steps, where the flow stays inside."""
    shape = (20, 18, 22)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((3, *shape)), (0, 5, 5, 5))
    for axis, n in enumerate(shape):  # nothing moves at the border
        along = np.sin(np.pi * np.arange(n) / (n - 1))
        noise *= np.expand_dims(along, tuple(x for x in range(3) if x != axis))
    velocity = (2 * noise / np.abs(noise).max()).astype(np.float32)
    found = Cascade(Bundle.open()).integrate(velocity[None])[0]
    here = np.indices(shape)
    points = here.astype(np.float64)
    for _ in range(256):
        points += np.stack([map_coordinates(v, points, order=1) for v in velocity]) / 256
    assert np.abs(found - velocity).max() > 0.2  # voxels: to integrate is something else
    np.testing.assert_allclose(found, points - here, rtol=0, atol=0.08)  # voxels


def test_no_step_of_an_integration_folds_whatever_the_velocity():
    noise = np.random.default_rng(0).standard_normal((3, 12, 14, 10)).astype(np.float32)
    longest = np.linalg.norm(noise, axis=0).max()
    step = np.moveaxis(noise / np.float32(longest / _STEP_VOX), 0, -1)
    grid = ImageGrid(step.shape[:3], np.eye(4))
    assert (least_determinant(np.ascontiguousarray(step), grid) > 0).all()
    cascade = Cascade(Bundle.open())
    still = np.zeros((1, 3, 8, 8, 8), np.float32)
    np.testing.assert_array_equal(cascade.integrate(still), still)


def test_stages_are_integrated_when_asked():
    cascade = Cascade(Bundle.open())
    image = np.random.default_rng(0).random((1, 1, 24, 32, 20), dtype=np.float32)
    smooth = gaussian_filter(image, (0, 0, 3, 3, 3))
    pair = smooth, smooth[:, :, ::-1].copy()
    plain, integrated = (cascade.run(*pair, integrated=x)[0] for x in (False, True))
    difference = np.abs(plain - integrated).max()
    assert 0.01 < difference < np.abs(plain).max()  # voxels
