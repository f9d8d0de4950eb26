"""What is low and what is not in a lowered stage, and that its rounding is shown exactly."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, shape_inference

from rwcnet_export.ops import add_functions
from rwcnet_export.precision import LOW_TYPES, count, element_types, lower
from rwcnet_export.rounding import rounding_graph
from rwcnet_runtime.backends.onnxruntime_cpu import Session
from rwcnet_runtime.errors import BundleError

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
SIZE = (6, 5, 7)

every_engine = pytest.mark.parametrize("engine", LOW_TYPES)
every_stage = pytest.mark.parametrize("index", range(3))


def _stage(exported: Path, index: int) -> onnx.ModelProto:
    return onnx.load(exported / "fp32" / f"stage{index + 1}.onnx")


def _types(model: onnx.ModelProto) -> dict[str, int]:
    return element_types(shape_inference.infer_shapes(model).graph)


def _session(model: onnx.ModelProto, folder: Path) -> Session:
    onnx.save(model, folder / "model.onnx")
    return Session(folder / "model.onnx")


def _parsed(body: str, **weights: torch.Tensor) -> onnx.ModelProto:
    """Return a graph of images `x` and `y` to `out`, with the functions it calls."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "rwcnet" : 1]>'
        "g (float[1, 2, 6, 5, 7] x, float[1, 2, 6, 5, 7] y) => (float[1, c, 6, 5, 7] out) "
        f"{{ {body} }}"
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()
    )
    add_functions(model)
    return model


def _random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@every_engine
@every_stage
def test_the_flow_path_is_float32_and_the_rest_is_not(
    exported: Path, index: int, engine: str
) -> None:
    stage = _stage(exported, index)
    low, types = lower(stage, engine), _types(lower(stage, engine))
    makers = {name: node for node in low.graph.node for name in node.output}
    # From each flow back: additions and the zeros it starts from, up to where the head is cast.
    waiting = ["flow", *(n.input[1] for n in low.graph.node if n.op_type == "Warp3d")]
    ends = set()
    while waiting:
        name = waiting.pop()
        assert types[name] == TensorProto.FLOAT, name
        node = makers.get(name)
        if node is None or node.op_type == "Expand":
            continue
        if node.op_type == "Cast":
            ends.add(makers[node.input[0]].op_type)
            continue
        assert node.op_type == "Add"
        waiting += node.input
    assert ends == {"Conv"}
    for node in low.graph.node:
        if node.op_type in ("Conv", "LocalCorrelation3d"):
            assert {types[name] for name in (*node.input, *node.output)} == {LOW_TYPES[engine]}
        if node.op_type == "Warp3d":
            kinds = [types[name] for name in (*node.input, *node.output)]
            assert kinds == [LOW_TYPES[engine], TensorProto.FLOAT, LOW_TYPES[engine]]


@every_engine
@every_stage
def test_no_value_goes_up_and_down_again(exported: Path, index: int, engine: str) -> None:
    low = lower(_stage(exported, index), engine)
    casts = {n.output[0]: n.input[0] for n in low.graph.node if n.op_type == "Cast"}
    assert casts
    assert casts.keys().isdisjoint(casts.values())
    assert len(set(casts.values())) == len(casts)  # nothing is cast twice
    read = {name for node in low.graph.node for name in node.input}
    assert casts.keys() <= read | {value.name for value in low.graph.output}
    sized = {name for node in low.graph.node if node.op_type == "Shape" for name in node.input}
    assert casts.keys().isdisjoint(sized)  # for its size alone nothing is cast
    assert count(low).casts == len(casts)
    assert count(low).low > 3 * count(low).full


@every_engine
@every_stage
def test_what_a_lowered_stage_is_called_with_stays(exported: Path, index: int, engine: str) -> None:
    stage = _stage(exported, index)
    low = lower(stage, engine)
    assert list(low.graph.input) == list(stage.graph.input)
    assert list(low.graph.output) == list(stage.graph.output)
    assert [f.name for f in low.functions] == [f.name for f in stage.functions]
    versions = {
        opset.version
        for part in (low, *low.functions)
        for opset in part.opset_import
        if opset.domain == ""
    }
    assert versions == {22 if engine == "bf16" else 20}
    assert low.SerializeToString() == lower(stage, engine).SerializeToString()
    assert stage == _stage(exported, index)


def test_onnx_runtime_runs_fp16_and_no_bf16(exported: Path, tmp_path: Path) -> None:
    fixed, moving = (_random(1, 1, 16, 12, 20, seed=n).numpy() for n in (1, 2))
    (expected, *_), (found, *_) = (
        _session(model, tmp_path).run(fixed=fixed, moving=moving)
        for model in (_stage(exported, 0), lower(_stage(exported, 0), "fp16"))
    )
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.05  # voxels
    with pytest.raises(BundleError, match="NOT_IMPLEMENTED"):
        _session(lower(_stage(exported, 0), "bf16"), tmp_path)


def _rounded(model: onnx.ModelProto, engine: str, folder: Path) -> Session:
    rounding = rounding_graph(lower(model, engine))
    assert not rounding.functions
    return _session(rounding, folder)


@every_engine
def test_rounding_is_that_of_torch(engine: str, tmp_path: Path) -> None:
    """Products of few bits have exact sums in float32: only the roundings are left to compare."""
    weight = torch.round(4 * _random(3, 2, 3, 3, 3, seed=1)) / 4
    body = "z = Mul (x, y) a = Conv <pads = [1, 1, 1, 1, 1, 1]> (z, w) out = Relu (a)"
    x, y = (torch.round(64 * _random(1, 2, *SIZE, seed=n)) / 64 for n in (2, 3))
    to = TORCH[engine]
    products = (x.to(to) * y.to(to)).double()
    assert not torch.equal(products, x.double() * y.double())
    sums = torch.nn.functional.conv3d(products, weight.to(to).double(), padding=1)
    expected = sums.float().to(to).relu().float().numpy()
    assert not np.array_equal(expected, sums.relu().float().numpy())
    session = _rounded(_parsed(body, w=weight), engine, tmp_path)
    (found,) = session.run(x=x.numpy(), y=y.numpy())
    np.testing.assert_array_equal(found, expected)


@every_engine
@pytest.mark.parametrize("metric", ["dot", "absolute_difference"])
def test_what_is_inside_a_function_rounds_too(engine: str, metric: str, tmp_path: Path) -> None:
    """The body of a loop as well, which the second metric has."""
    body = f'out = rwcnet.LocalCorrelation3d <radius = 1, metric = "{metric}"> (x, y, w, b)'
    model = _parsed(body, w=_random(3, 1, 3, 3, 3, seed=1), b=torch.zeros(3))
    x, y = (_random(1, 2, *SIZE, seed=n).numpy() for n in (2, 3))
    (expected,), (found,) = (
        session.run(x=x, y=y)
        for session in (_session(model, tmp_path), _rounded(model, engine, tmp_path))
    )
    to = TORCH[engine]
    np.testing.assert_array_equal(torch.from_numpy(found).to(to).float().numpy(), found)
    relative = np.abs(found - expected).max() / np.abs(expected).max()
    epsilon = torch.finfo(to).eps
    assert epsilon / 4 < relative < 8 * epsilon
    # Not the rounding of the result alone: sums inside have gone another way.
    assert (found != torch.from_numpy(expected).to(to).float().numpy()).mean() > 0.2


def test_overflow_is_shown(tmp_path: Path) -> None:
    model = _parsed("squares = Mul (x, x) out = Sub (squares, squares)")
    x = np.full((1, 2, *SIZE), 300, np.float32)
    (fp16,), (bf16,) = (_rounded(model, e, tmp_path).run(x=x, y=x) for e in ("fp16", "bf16"))
    assert np.isnan(fp16).all()  # 90,000 is more than fp16 holds
    assert (bf16 == 0).all()


def test_what_a_resize_and_a_normalisation_need_stays_float32(tmp_path: Path) -> None:
    body = """
        small = AveragePool <kernel_shape = [1, 1, 1]> (x)
        large = Resize <mode = "nearest"> (small, , scales)
        normal = InstanceNormalization (large, s, b)
        out = Add (normal, y)
    """
    ones = torch.ones(2)
    model = _parsed(body, scales=torch.ones(5), s=ones, b=ones)
    low = lower(model, "fp16")
    types = _types(low)
    kinds = {n.op_type: [types.get(name) for name in (*n.input, *n.output)] for n in low.graph.node}
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    assert kinds["Resize"] == [half, None, full, half]
    assert kinds["InstanceNormalization"] == [full] * 4
    assert kinds["Add"] == [half] * 3
