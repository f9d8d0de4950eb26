"""Patches that a graph lays out and joins are those of the runtime."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rwcnet_export.patches import JOIN, LAYOUT, in_patches_function
from rwcnet_export.pipeline import parse_function
from rwcnet_runtime.bundle import StageEntry
from rwcnet_runtime.patches import lay_out

_HEAD = '<ir_version: 10, opset_import: ["" : 20, "rwcnet" : 1]>'
# A stage whose answer depends on all that its patch reads, so that the wrong patch shows.
_STAGE = """
    Stage (fixed, moving) => (flow, hidden_out) {
        least = ReduceMin <keepdims = 1> (fixed)
        both = Concat <axis = 1> (fixed, moving)
        most = ReduceMax <keepdims = 1> (moving)
        flow = Sub (both, least)
        hidden_out = Sub (fixed, most)
    }"""


def _session(texts, graph):
    model = onnx.parser.parse_model(_HEAD + graph)
    model.functions.extend(map(parse_function, texts))
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize(("patch", "halo"), [(32, 8), (128, 0), (40, 19), (7, 1)])
def test_patches_are_laid_out_as_in_the_runtime(patch, halo):
    graph = "g (int64[1] n, int64[1] p, int64[1] h) => (int64[1] edge, int64[c] starts, int64[n] s)"
    session = _session([LAYOUT], graph + "{edge, starts, s = rwcnet.PatchLayout (n, p, h)}")
    for length in range(1, 200):
        given = {"n": length, "p": patch, "h": halo}
        edge, starts, source = session.run(None, {x: np.array([n]) for x, n in given.items()})
        laid = [(p.read[0], p.inner[0]) for p in lay_out((length, 1, 1), patch, halo)]
        assert starts.tolist() == [read.start for read, _ in laid]
        assert {edge.item()} == {read.stop - read.start for read, _ in laid}
        assert source.tolist() == [
            n * edge.item() + place
            for n, (_, inner) in enumerate(laid)
            for place in range(inner.start, inner.stop)
        ]


@pytest.mark.parametrize(
    "cut",
    [{"patch": 12, "halo": 3, "parts": 1}, {"patch": None, "halo": 0, "parts": 2}],
    ids=["patch", "parts"],
)
def test_patches_are_run_and_joined_as_in_the_runtime(cut):
    entry = StageEntry(resolution=1, steps=1, radius=1, inherits=False, stride=1, **cut)
    names = ("fixed", "moving"), ("flow", "hidden_out")
    graph = """
        g (float[1, 1, i, j, k] fixed, float[1, 1, i, j, k] moving)
        => (float[1, 2, i, j, k] flow, float[1, 1, i, j, k] hidden) {
            flow, hidden = rwcnet.InPatches (fixed, moving)
        }"""
    texts = [_STAGE, LAYOUT, JOIN, in_patches_function("InPatches", "Stage", entry, *names)]
    session = _session(texts, graph)
    for shape in ((30, 10, 19), (13, 25, 12), (8, 8, 8)):
        fixed, moving = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
        flow, hidden = session.run(None, {"fixed": fixed[None, None], "moving": moving[None, None]})
        assert flow.shape == (1, 2, *shape)
        laid = lay_out(shape, **cut)
        for place in laid:
            least, most = fixed[place.read].min(), moving[place.read].max()
            np.testing.assert_array_equal(flow[0, 0][place.own], fixed[place.own] - least)
            np.testing.assert_array_equal(flow[0, 1][place.own], moving[place.own] - least)
            np.testing.assert_array_equal(hidden[0, 0][place.own], fixed[place.own] - most)
