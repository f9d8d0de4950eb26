"""Intensities and padding in a graph are those of the runtime."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rwcnet_export.pipeline import parse_function
from rwcnet_export.preprocess import intensity_functions, padding_function
from rwcnet_runtime.preprocess import Padding, normalise


def _session(texts, graph):
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20, "rwcnet" : 1]>{graph}'
    )
    model.functions.extend(map(parse_function, texts))
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString())


def _intensities(fixed_range):
    graph = "g (float[i, j, k] x) => (float[i, j, k] y, bool u) {y, u = rwcnet.Intensities (x)}"
    return _session(intensity_functions(fixed_range), graph)


@pytest.mark.parametrize("fixed_range", [None, (-4e-3, 16e3), (0.0, 1.0)])
@pytest.mark.parametrize("shape", [(2, 2, 1), (13, 16, 30), (40, 41, 42)])
def test_intensities_are_those_of_the_runtime(shape, fixed_range):
    random = np.random.default_rng(0)
    image = (random.gamma(2, 100, shape) - 80).clip(0).astype(np.float32)
    found, usable = _intensities(fixed_range).run(None, {"x": image})
    assert usable.item()
    np.testing.assert_allclose(found, normalise(image, fixed_range), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fixed_range", [None, (-4e-3, 16e3)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None])
def test_what_cannot_be_used_is_known_and_stays_finite(bad, fixed_range):
    image = np.full((3, 4, 5), 7, np.float32)
    if bad is not None:
        image[:] = np.arange(60).reshape(3, 4, 5)
        image[1, 2, 3] = bad
    found, usable = _intensities(fixed_range).run(None, {"x": image})
    assert not usable.item()
    assert np.isfinite(found).all()


def test_a_mask_cannot_be_used():
    mask = (np.arange(60).reshape(3, 4, 5) > 20).astype(np.float32)
    _, usable = _intensities(None).run(None, {"x": mask})
    assert not usable.item()


@pytest.mark.parametrize("multiple", [4, 16])
def test_padding_is_that_of_the_runtime(multiple):
    graph = "g (int64[3] size) => (int64[10] pads, int64[3] before)"
    session = _session(
        [padding_function(multiple)], graph + "{pads, before = rwcnet.Margins (size)}"
    )
    for size in ((1, 2, 3), (9, 16, 17), (31, 32, 33), (48, 64, 8)):
        pads, before = session.run(None, {"size": np.array(size)})
        padding = Padding.to_multiple(size, multiple)
        assert pads.tolist() == [0, 0, *padding.before, 0, 0, *padding.after]
        assert tuple(before) == padding.before
