"""The loop: known motion is found, what fits stays, masks, when it stops, what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.bundle import Bundle, RefinementEntry
from rwcnet_runtime.errors import BundleError
from rwcnet_runtime.refinement import Refiner, lift

SHAPE = (32, 40, 36)
SETTINGS = RefinementEntry("mind", steps=60, regularisation=1.0, rate=0.3)

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The one inside the package."""
    return Bundle.open()


def _texture(shape: tuple[int, int, int], seed: int = 0) -> Array:
    """Return smooth random structure within 0..1."""
    noise = sitk.GetImageFromArray(np.random.default_rng(seed).normal(size=shape[::-1]))
    smooth = sitk.GetArrayFromImage(sitk.DiscreteGaussian(noise, 4.0)).transpose(2, 1, 0)
    scaled = (smooth - smooth.min()) / np.ptp(smooth)
    return np.ascontiguousarray(scaled, np.float32)[None, None]


def _shifted(by: tuple[int, int, int], shape: tuple[int, int, int] = SHAPE) -> tuple[Array, Array]:
    """Return a pair whose true flow is `by`: moving(x + by) = fixed(x)."""
    i, j, k = shape
    whole = _texture((i + 4, j + 4, k + 4))
    fixed = whole[:, :, 2 : 2 + i, 2 : 2 + j, 2 : 2 + k]
    a, b, c = (2 - step for step in by)
    moving = whole[:, :, a : a + i, b : b + j, c : c + k]
    return np.ascontiguousarray(fixed), np.ascontiguousarray(moving)


def _still(shape: tuple[int, int, int] = SHAPE) -> tuple[Array, Array]:
    """Return no flow, and a weight that counts everything."""
    return np.zeros((1, 3, *shape), np.float32), np.ones((1, 1, *shape), np.float32)


def _refiner(bundle: Bundle, settings: RefinementEntry = SETTINGS) -> Refiner:
    return Refiner(bundle, settings, OnnxRuntimeCpu(1))


@pytest.mark.parametrize("features", ["mind", "learned", "both"])
def test_a_known_translation_is_found(bundle: Bundle, features: str) -> None:
    refiner = _refiner(bundle, replace(SETTINGS, features=features))
    # A second pair, of another shape, is found by the graphs that are open already.
    for shape, by in ((SHAPE, (2, -1, 1)), ((36, 32, 44), (-1, 2, 0))):
        fixed, moving = _shifted(by, shape)
        flow, losses = refiner.run(_still(shape)[0], fixed, moving, _still(shape)[1])
        assert flow.shape == (1, 3, *shape)
        assert flow.dtype == np.float32
        inner = flow[0, :, 8:-8, 8:-8, 8:-8].mean(axis=(1, 2, 3))
        np.testing.assert_allclose(inner, by, rtol=0, atol=0.15)  # voxels
        assert min(losses) < 0.5 * losses[0]


def test_a_flow_that_fits_stays(bundle: Bundle) -> None:
    image = _texture(SHAPE)
    still, weight = _still()
    flow, losses = _refiner(bundle).run(still, image, image, weight)
    assert max(losses) == 0
    np.testing.assert_array_equal(flow, still)
    # There is nothing to gain, and it stops as soon as that is known.
    assert len(losses) == 11


def test_what_is_masked_out_is_not_looked_at(bundle: Bundle) -> None:
    fixed, moving = _shifted((2, 0, 0))
    still, weight = _still()
    weight[:, :, :, 20:] = 0
    other = fixed.copy()
    other[:, :, :, 26:] = _texture(SHAPE, seed=9)[:, :, :, 26:]
    refiner = _refiner(bundle, replace(SETTINGS, steps=10))
    # MIND-SSC looks three voxels about, and is normalised by means over the image.
    flow, _ = refiner.run(still, fixed, moving, weight)
    again, _ = refiner.run(still, other, moving, weight)
    unmasked, _ = refiner.run(still, other, moving, np.ones_like(weight))
    assert np.abs(again - flow).max() < 0.05  # voxels
    assert np.abs(unmasked - flow).max() > 1


def test_progress_tells_loss_and_share(bundle: Bundle) -> None:
    told: list[tuple[str, float]] = []
    fixed, moving = _shifted((2, 0, 0))
    still, weight = _still()
    refiner = _refiner(bundle, replace(SETTINGS, steps=4))
    _, losses = refiner.run(
        still, fixed, moving, weight, lambda part, share: told.append((part, share))
    )
    assert told == [(f"refinement, loss {x:.4f}", n / 4) for n, x in enumerate(losses, start=1)]


def test_lifting_smooths_and_doubles() -> None:
    change = np.zeros((1, 3, 9, 10, 11), np.float32)
    change[0, 0] = 1  # what is even stays, but for the zeros around the grid
    change[0, 1] = np.arange(11)
    lifted = lift(change)
    assert lifted.shape == (1, 3, 18, 20, 22)
    inner = lifted[0, :, 8:-8, 8:-8, 8:-8]
    np.testing.assert_allclose(inner[0], 2, rtol=0, atol=1e-5)
    # Half-pixel: voxel x of the larger grid is at (x - 1/2) / 2 of the smaller.
    expected = np.broadcast_to(2 * (np.arange(8, 14) - 0.5) / 2, inner[1].shape)
    np.testing.assert_allclose(inner[1], expected, rtol=0, atol=1e-5)
    assert not lifted[0, 2].any()


def test_learned_features_on_another_grid_are_refused(bundle: Bundle) -> None:
    entries = tuple(replace(entry, stride=1) for entry in bundle.manifest.stages[1:])
    other = replace(bundle, manifest=replace(bundle.manifest, stages=entries))
    with pytest.raises(BundleError, match="refine with mind features"):
        _refiner(other, replace(SETTINGS, features="learned"))
