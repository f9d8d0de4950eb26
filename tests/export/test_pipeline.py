"""`pipeline.onnx` in plain ONNX Runtime against the runtime."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from rwcnet_export.graphs import resample_graph
from rwcnet_export.pipeline import pipeline_graph
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.preprocess import FIXED_RANGE, Padding, normalise


@pytest.fixture(scope="module")
def bundle(exported):
    return Bundle.open(exported)


@pytest.fixture(scope="module")
def session(bundle):
    """As anybody would open the file, and the same for all sizes."""
    return ort.InferenceSession(bundle.graph_path("pipeline.onnx"))


def _pair(size, background=0.0):
    """Two smooth images that differ, in intensities of scanners."""
    i, j, k = np.indices(size, np.float32) / 7
    fixed = 300 + 200 * np.sin(i + 0.5 * j) * np.cos(k) + 100 * np.sin(j)
    moving = 900 - 150 * np.sin(i + 0.5 * j - 0.4) * np.cos(k + 0.3) + 80 * np.sin(j + 0.2)
    for image in (fixed, moving):
        image[: size[0] // 4] = background
    return fixed.astype(np.float32), moving.astype(np.float32)


def _run(session, fixed, moving):
    flow, warped = session.run(
        ["flow", "warped"], {"fixed": fixed[None, None], "moving": moving[None, None]}
    )
    return flow, warped


def _runtime_flow(bundle, fixed, moving, fixed_range=None):
    padding = Padding.to_multiple(fixed.shape, bundle.manifest.multiple)
    images = [padding.apply(normalise(x, fixed_range))[None, None] for x in (fixed, moving)]
    return padding.remove(Cascade(bundle).run(*images)[0])


# Patches without padding, with it, along one axis; and less than two voxels of the coarsest grid.
@pytest.mark.parametrize("size", [(40, 52, 36), (33, 47, 61), (65, 20, 35), (3, 30, 31)])
def test_the_flow_is_that_of_the_runtime(bundle, session, size):
    fixed, moving = _pair(size)
    expected = _runtime_flow(bundle, fixed, moving)
    flow, warped = _run(session, fixed, moving)
    assert flow.shape == (1, 3, *size)
    assert warped.shape == (1, 1, *size)
    assert np.abs(flow - expected).max() < 1e-3  # voxels
    assert np.abs(expected).max() > 1  # voxels


def test_a_fixed_range_of_intensities(bundle):
    ends = (-50.0, 1000.0)
    manifest = replace(bundle.manifest, intensity=FIXED_RANGE, intensity_range=ends)
    model = pipeline_graph(bundle.folder, manifest, resample_graph())
    session = ort.InferenceSession(model.SerializeToString())
    fixed, moving = _pair((20, 24, 16))
    flow, _ = _run(session, fixed, moving)
    expected = _runtime_flow(bundle, fixed, moving, ends)
    assert np.abs(flow - expected).max() < 1e-3  # voxels
    assert np.abs(expected - _runtime_flow(bundle, fixed, moving)).max() > 0.01  # voxels


def test_warped_is_what_the_runtime_samples(session):
    """Where the flow leads out of the image too: the outermost voxel, and beyond its half zero."""
    size = (40, 36, 28)
    fixed, moving = _pair(size, background=200)
    flow, warped = _run(session, fixed, moving)
    grid = ImageGrid(size, np.eye(4))
    expected = Mapping(grid, grid, None, flow[0]).resample(moving)
    assert (expected == 0).sum() > 100
    # On which side of the end of the image a point lies, rounding decides.
    points = np.indices(size) + flow[0].astype(np.float64)
    ends = np.reshape(size, (3, 1, 1, 1)) - 0.5
    clear = np.minimum(np.abs(points + 0.5), np.abs(points - ends)).min(axis=0) > 1e-4
    assert np.abs(warped[0, 0] - expected)[clear].max() < 0.05  # of intensities up to 1130


@pytest.mark.parametrize("bad", ["constant", "mask", "nan", "infinite"])
@pytest.mark.parametrize("place", ["fixed", "moving"])
def test_what_the_runtime_refuses_becomes_nan_throughout(session, place, bad):
    size = (16, 24, 20)
    images = dict(zip(("fixed", "moving"), _pair(size), strict=True))
    image = images[place]
    if bad == "constant":
        image[:] = 7
    elif bad == "mask":
        image[:] = image > image.mean()
    else:
        image[3, 4, 5] = np.inf if bad == "infinite" else np.nan
    flow, warped = _run(session, **images)
    assert np.isnan(flow).all()
    assert np.isnan(warped).all()


@pytest.mark.parametrize("other", [(31, 32, 32), (29, 32, 36), (28, 32, 32)])
def test_images_of_two_sizes_are_refused(session, other):
    """Also where padding, or rounding at coarser grids, could make them one."""
    fixed, _ = _pair((29, 32, 32))
    _, moving = _pair(other)
    with pytest.raises(Fail, match="ONNXRuntimeError"):
        _run(session, fixed, moving)


def test_the_file_says_what_it_is(bundle, session):
    said = session.get_modelmeta().custom_metadata_map
    manifest = bundle.manifest
    assert said["name"] == "tiny"
    assert said["licence"] == manifest.weights["licence"]
    assert said["training_data"] == manifest.weights["training_data"]
    assert said["weights_sha256"] == manifest.weights["sha256"]
    assert said["bundle_schema_version"] == str(manifest.schema_version)
    assert said["intensity"] == manifest.intensity
    assert said["intensity_range"] == ""
    for key in ("axes", "inputs", "flow", "spacing", "warped", "refused"):
        assert said[key], key
    assert [value.name for value in session.get_inputs()] == ["fixed", "moving"]
    assert [value.shape[:2] for value in session.get_outputs()] == [[1, 3], [1, 1]]


def test_every_weight_is_there_once_and_every_function_is_called(bundle):
    model = onnx.load(bundle.graph_path("pipeline.onnx"))
    names = [function.name for function in model.functions]
    assert len(names) == len(set(names))
    called = {"Warp3d", "LocalCorrelation3d"}
    todo = [model.graph.node, *(f.node for f in model.functions)]
    while todo:
        for node in todo.pop():
            called |= {node.op_type} & set(names)
            todo += [a.g.node for a in node.attribute if a.HasField("g")]
    assert called == set(names)
    stages = sum(bundle.stage_path(n, "fp32").stat().st_size for n in range(3))
    assert bundle.graph_path("pipeline.onnx").stat().st_size < stages + 100_000


def test_the_same_graphs_give_the_same_bytes(bundle):
    again = pipeline_graph(bundle.folder, bundle.manifest, resample_graph())
    assert again.SerializeToString() == bundle.graph_path("pipeline.onnx").read_bytes()


def test_graphs_that_define_an_operator_differently_are_not_linked(bundle, tmp_path):
    folder = shutil.copytree(bundle.folder, tmp_path / "bundle")
    model = onnx.load(folder / "enter2.onnx")
    model.functions[0].doc_string = "another body"
    onnx.save(model, folder / "enter2.onnx")
    with pytest.raises(ValueError, match="different bodies of Warp3d"):
        pipeline_graph(folder, bundle.manifest, resample_graph())
