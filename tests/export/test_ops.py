"""The two operators: torch definition, ONNX function, and the function inlined say the same."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from rwcnet_export.ops import OPSET, add_functions
from rwcnet_export.ops.call import DOMAIN, PLUGIN
from rwcnet_export.ops.correlation import function_body
from rwcnet_ref.correlation import Metric, local_correlation
from rwcnet_ref.grid import Warp
from rwcnet_runtime.engines.build import build
from rwcnet_runtime.engines.products import PRODUCTS

Run = Callable[..., Tensor]

(RTX,) = (product for product in PRODUCTS if product.name == "tensorrt-rtx")
METRICS: tuple[Metric, ...] = ("dot", "absolute_difference")
SIZES = [(2, 2, 2), (5, 7, 9), (16, 12, 20)]


def _model(operator: str, inputs: dict[str, list[str | int]], **attributes: int | str) -> bytes:
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in inputs.items()
    ]
    out = onnx.helper.make_tensor_value_info(
        "out", onnx.TensorProto.FLOAT, ["b", "o", "i", "j", "k"]
    )
    node = onnx.helper.make_node(operator, list(inputs), ["out"], domain=DOMAIN)
    node.attribute.extend(
        onnx.helper.make_attribute(name, value) for name, value in (attributes | PLUGIN).items()
    )
    graph = onnx.helper.make_graph([node], operator, values, [out])
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    add_functions(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _inlined(model: bytes) -> bytes:
    flat = onnx.inliner.inline_local_functions(onnx.load_from_string(model))
    assert not flat.functions
    assert {node.domain for node in flat.graph.node} == {""}
    return bytes(flat.SerializeToString())


def _runner(model: bytes) -> Run:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(*arrays: Tensor) -> Tensor:
        names = [value.name for value in session.get_inputs()]
        feed = dict(zip(names, (x.numpy() for x in arrays), strict=True))
        return torch.from_numpy(session.run(None, feed)[0])

    return run


@pytest.fixture(scope="module", params=["function", "inlined"])
def warp(request: pytest.FixtureRequest) -> Run:
    grid: list[str | int] = ["i", "j", "k"]
    model = _model("Warp3d", {"image": ["b", "c", *grid], "flow_vox": ["b", 3, *grid]})
    return _runner(model if request.param == "function" else _inlined(model))


@pytest.fixture(scope="module", params=["function", "inlined"])
def correlate(request: pytest.FixtureRequest) -> Callable[..., Run]:
    """Return the operator of a radius and a metric, and of channels and outputs if given."""

    def make(
        radius: int, metric: Metric = "dot", channels: str | int = "c", outputs: str | int = "o"
    ) -> Run:
        maps: list[str | int] = ["b", channels, "i", "j", "k"]
        n = 2 * radius + 1
        inputs: dict[str, list[str | int]] = {
            "fixed": maps,
            "moving": maps,
            "weight": [outputs, 1, n, n, n],
            "bias": [outputs],
        }
        model = _model("LocalCorrelation3d", inputs, radius=radius, metric=metric)
        return _runner(model if request.param == "function" else _inlined(model))

    return make


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _largest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("batch", "channels", "projected"), [(1, 1, 1), (2, 3, 5), (2, 8, 4)])
def test_correlation_is_the_definition(
    correlate: Callable[..., Run],
    metric: Metric,
    radius: int,
    size: tuple[int, ...],
    batch: int,
    channels: int,
    projected: int,
) -> None:
    n = 2 * radius + 1
    fixed = _random(batch, channels, *size, seed=1)
    moving = _random(batch, channels, *size, seed=2)
    # As a model starts: outputs of order one, so that the tolerance means something.
    weight = _random(projected, 1, n, n, n, seed=3) / math.sqrt(channels * n**3)
    bias = _random(projected, seed=4)
    expected = local_correlation(fixed, moving, weight, bias, radius=radius, metric=metric)
    found = correlate(radius, metric)(fixed, moving, weight, bias)
    # Borders included: at radius 3 most of the offsets leave the smaller images.
    assert _largest(found, expected) < 1e-5


# In one group, in even and in uneven groups, and more outputs than may be alive.
@pytest.mark.parametrize(
    ("channels", "projected", "groups"), [(1, 1, 1), (8, 8, 2), (16, 8, 4), (7, 12, 4), (3, 40, 3)]
)
def test_correlation_in_groups_of_channels_is_the_definition(
    correlate: Callable[..., Run], channels: int, projected: int, groups: int
) -> None:
    size, n = (5, 7, 9), 5
    fixed, moving = _random(2, 2, channels, *size, seed=1)
    weight = _random(projected, 1, n, n, n, seed=2) / math.sqrt(channels * n**3)
    bias = _random(projected, seed=3)
    expected = local_correlation(fixed, moving, weight, bias, radius=2)
    found = correlate(2, "dot", channels, projected)(fixed, moving, weight, bias)
    assert _largest(found, expected) < 1e-5
    body = function_body("dot", channels, projected)
    assert body.count("Conv ") == groups
    assert math.ceil(channels / groups) * projected <= max(32, projected)


def test_weights_in_the_graph_say_how_many_groups() -> None:
    """As exported: the weight is no input, and the features are results of nodes before."""
    maps: list[str | int] = ["b", 8, "i", "j", "k"]
    inputs: dict[str, list[str | int]] = {
        "fixed": maps,
        "moving": maps,
        "weight": ["o", 1, 3, 3, 3],
        "bias": ["o"],
    }
    model = onnx.load_from_string(_model("LocalCorrelation3d", inputs, radius=1, metric="dot"))
    graph = model.graph
    weight = onnx.numpy_helper.from_array(np.zeros((8, 1, 3, 3, 3), np.float32), "weight")
    graph.initializer.append(weight)
    graph.value_info.append(graph.input[0])
    del graph.input[:]
    add_functions(model)
    assert sum(node.op_type == "Conv" for node in model.functions[0].node) == 2


@pytest.mark.parametrize("metric", METRICS)
def test_correlation_of_a_batch_is_that_of_its_images(
    correlate: Callable[..., Run], metric: Metric
) -> None:
    fixed, moving = _random(2, 2, 3, 5, 7, 9)
    weight, bias = _random(4, 1, 3, 3, 3, seed=1), _random(4, seed=2)
    run = correlate(1, metric)
    both = run(fixed, moving, weight, bias)
    for n in range(2):
        alone = run(fixed[n : n + 1], moving[n : n + 1], weight, bias)
        assert _largest(both[n : n + 1], alone) < 1e-5
    assert _largest(both[:1], both[1:]) > 1


@pytest.mark.skipif(RTX.version is None, reason="needs TensorRT-RTX: pip install tensorrt-rtx")
@pytest.mark.parametrize("metric", METRICS)
def test_tensorrt_rtx_builds_the_correlation(metric: Metric, tmp_path: Path) -> None:
    maps: list[str | int] = ["b", 4, "i", "j", "k"]
    inputs = {"fixed": maps, "moving": maps, "weight": [8, 1, 7, 7, 7], "bias": [8]}
    model = onnx.load_from_string(_model("LocalCorrelation3d", inputs, radius=3, metric=metric))
    arrays = {"weight": np.ones((8, 1, 7, 7, 7), np.float32), "bias": np.zeros(8, np.float32)}
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    del model.graph.input[2:]
    onnx.save(model, tmp_path / "graph.onnx")
    sizes = ((1, 8, 8, 8), (1, 16, 24, 32), (2, 32, 32, 32))
    plan = tmp_path / "engine.plan"
    profile = {"fixed": sizes, "moving": sizes}
    build(RTX, tmp_path / "graph.onnx", plan, profile, gpu=False, plugin=False)
    assert plan.stat().st_size > 10_000


def test_correlation_looks_for_the_offset_it_names(correlate: Callable[..., Run]) -> None:
    fixed, moving = torch.zeros(2, 1, 1, 7, 7, 7)
    fixed[0, 0, 3, 3, 3] = moving[0, 0, 4, 3, 2] = 1
    weight = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
    out = correlate(1)(fixed, moving, weight, torch.zeros(1))
    # The moving voxel lies at offset (1, 0, -1), the entry (2, 1, 0) of the cube.
    assert out[0, 0, 3, 3, 3] == weight[0, 0, 2, 1, 0]
    assert out.count_nonzero() == 1


def test_absolute_difference_looks_for_the_offset_it_names(correlate: Callable[..., Run]) -> None:
    fixed = _random(1, 2, 9, 9, 9)
    moving = torch.roll(fixed, (1, 0, -1), dims=(2, 3, 4))
    weight = torch.zeros(1, 1, 3, 3, 3)
    weight[0, 0, 2, 1, 0] = 1
    run = correlate(1, "absolute_difference")
    inside = (..., *[slice(2, -2)] * 3)
    assert run(fixed, moving, weight, torch.zeros(1))[inside].abs().max() < 1e-5
    assert run(fixed, fixed, weight, torch.zeros(1))[inside].min() > 0.1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (2, 3), (2, 16)])
def test_warp_is_the_definition(
    warp: Run, size: tuple[int, ...], batch: int, channels: int
) -> None:
    image = _random(batch, channels, *size, seed=1)
    # A third of the voxels points outside.
    flow = 0.4 * max(size) * _random(batch, 3, *size, seed=2)
    assert _largest(warp(image, flow), Warp()(image, flow)) < 1e-4


def test_warp_by_nothing_is_the_identity(warp: Run) -> None:
    image = _random(2, 3, 5, 7, 9)
    assert torch.equal(warp(image, torch.zeros(2, 3, 5, 7, 9)), image)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("far", [-1e6, -1e4, -9.0, 9.0, 1e4, 1e6])
def test_warp_beyond_any_side_is_zero(warp: Run, axis: int, far: float) -> None:
    image = 1 + _random(2, 3, 5, 7, 9).abs()
    flow = torch.zeros(2, 3, 5, 7, 9)
    flow[:, axis] = far
    assert not warp(image, flow).any()
    assert not Warp()(image, flow).any()


@pytest.mark.parametrize("beyond", [-0.75, -0.5, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_warp_fades_to_zero_over_one_voxel(warp: Run, beyond: float, axis: int, last: bool) -> None:
    """Every voxel points to the same distance beyond a border, 0 being exactly on it."""
    size = (5, 7, 9)
    image = _random(2, 2, *size)
    shape = [1, 1, 1]
    shape[axis] = -1
    here = torch.arange(float(size[axis])).reshape(shape)
    target = size[axis] - 1 + beyond if last else -beyond
    flow = torch.zeros(2, 3, *size)
    flow[:, axis] = target - here
    line = image.movedim(axis + 2, -1)
    border, inner = (line[..., -1], line[..., -2]) if last else (line[..., 0], line[..., 1])
    expected = (1 - beyond) * border if beyond >= 0 else (1 + beyond) * border - beyond * inner
    warped = warp(image, flow)
    for index in range(size[axis]):
        assert _largest(warped.select(axis + 2, index), expected) < 1e-5
    assert _largest(warped, Warp()(image, flow)) < 1e-5


def test_warp_moves_along_the_channel_of_the_axis(warp: Run) -> None:
    image = _random(1, 1, 5, 7, 9)
    flow = torch.zeros(1, 3, 5, 7, 9)
    flow[:, 0], flow[:, 1], flow[:, 2] = 1, -2, 3
    warped = warp(image, flow).numpy()
    np.testing.assert_array_equal(warped[..., :4, 2:, :6], image[..., 1:, :5, 3:])
