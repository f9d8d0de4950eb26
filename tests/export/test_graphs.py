"""Exported graphs compute what torch computes, at any size and batch, and carry nothing else."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from rwcnet_export.cases import random_weights
from rwcnet_export.graphs import Compose, Enter, HiddenKept, feature_graph
from rwcnet_export.ops import OPSET
from rwcnet_ref.config import TINY
from rwcnet_ref.model import Cascade
from rwcnet_runtime.backends.onnxruntime_cpu import Session

TOLERANCE = 1e-4
# Two sizes, one of them odd, and none the size the graphs were traced at.
GRIDS = [(1, (24, 16, 28)), (2, (24, 16, 28)), (1, (9, 11, 7)), (2, (9, 11, 7))]
FILES = [
    *(f"fp32/stage{n}.onnx" for n in (1, 2, 3)),
    *(f"features{n}.onnx" for n in (1, 2, 3)),
    *(f"enter{n}.onnx" for n in (2, 3)),
    "compose.onnx",
    "mind.onnx",
    "refine.onnx",
    "pipeline.onnx",
]

any_grid = pytest.mark.parametrize(("batch", "grid"), GRIDS)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _assert_same(
    path: Path, module: torch.nn.Module, inputs: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        expected = module(*inputs.values())
    if isinstance(expected, Tensor):
        expected = (expected,)
    found = Session(path).run(**{name: x.numpy() for name, x in inputs.items()})
    assert len(found) == len(expected)
    for array, tensor in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=0, atol=TOLERANCE)
    return tuple(expected)


@any_grid
@pytest.mark.parametrize("index", range(3))
def test_stage(
    exported: Path, cascade: Cascade, index: int, batch: int, grid: tuple[int, ...]
) -> None:
    stage = cascade.stage(index)
    inputs = {
        "fixed": _random(batch, 1, *grid, seed=1),
        "moving": _random(batch, 1, *grid, seed=2),
    }
    if index:
        inputs["hidden"] = 2 * _random(batch, stage.config.hidden, *grid, seed=3) - 1
    path = exported / "fp32" / f"stage{index + 1}.onnx"
    # The hidden state of the last stage stays inside.
    module = stage if index < 2 else HiddenKept(stage)
    flow, *_ = _assert_same(path, module, inputs)
    assert flow.abs().max() > 0.5  # or the comparison would mean little


@any_grid
@pytest.mark.parametrize("index", range(3))
def test_features(
    exported: Path, cascade: Cascade, index: int, batch: int, grid: tuple[int, ...]
) -> None:
    encoder = cascade.stage(index).features
    path = exported / f"features{index + 1}.onnx"
    _assert_same(path, encoder, {"image": _random(batch, 1, *grid, seed=1)})


@any_grid
@pytest.mark.parametrize("index", [1, 2])
def test_enter(
    exported: Path, cascade: Cascade, index: int, batch: int, grid: tuple[int, ...]
) -> None:
    inputs = {
        "moving": _random(batch, 1, *(2 * n for n in grid), seed=1),
        "flow": 6 * _random(batch, 3, *grid, seed=2) - 3,
        "hidden": _random(batch, TINY.stages[index - 1].hidden, *grid, seed=3),
    }
    path = exported / f"enter{index + 1}.onnx"
    _assert_same(path, Enter(cascade, index), inputs)


@any_grid
def test_compose(exported: Path, cascade: Cascade, batch: int, grid: tuple[int, ...]) -> None:
    inputs = {name: 8 * _random(batch, 3, *grid, seed=len(name)) - 4 for name in ("step", "below")}
    _assert_same(exported / "compose.onnx", Compose(cascade), inputs)


# The inputs of `refine.onnx` are not all images.
@pytest.mark.parametrize("name", [name for name in FILES if name != "refine.onnx"])
def test_format(exported: Path, name: str) -> None:
    model = onnx.load(exported / name)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    assert opsets.pop("") == OPSET == 20
    assert opsets in ({}, {"rwcnet": 1})
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    for value in (*model.graph.input, *model.graph.output):
        _, channels, *grid = value.type.tensor_type.shape.dim
        assert all(dim.HasField("dim_param") for dim in grid), value.name
        assert channels.dim_value > 0, value.name


@pytest.mark.parametrize("name", FILES)
def test_nothing_of_the_exporting_machine(exported: Path, name: str) -> None:
    data = (exported / name).read_bytes()
    here = Path(__file__).resolve().parents[2]
    traces = [here, Path.home(), Path(torch.__file__).parents[1], exported.parent]
    for trace in [*map(str, traces), ".py", "stack_trace", "pkg.torch", "site-packages"]:
        assert trace.encode() not in data, trace


@pytest.mark.parametrize("index", range(3))
def test_calls_name_their_plugin(exported: Path, index: int) -> None:
    model = onnx.load(exported / "fp32" / f"stage{index + 1}.onnx")
    calls = [node for node in model.graph.node if node.domain == "rwcnet"]
    config = TINY.stages[index]
    names = [node.op_type for node in calls]
    assert names.count("LocalCorrelation3d") == config.steps
    assert names.count("Warp3d") == config.steps - 1  # the first flow is zero
    assert {f.name for f in model.functions} == set(names)
    for node in calls:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        plugin = {"plugin_namespace": b"rwcnet", "plugin_version": b"1", "aot": 1}
        own = {"radius": config.radius, "metric": b"dot"} if "Corr" in node.op_type else {}
        assert values == plugin | own


def test_export_is_silent_and_leaves_the_module(capfd: pytest.CaptureFixture[str]) -> None:
    cascade = random_weights(TINY)
    stage = cascade.stage(2).train()
    before = {name: x.clone() for name, x in stage.state_dict().items()}
    feature_graph(cascade, 2)
    assert capfd.readouterr() == ("", "")
    assert stage.features.training
    assert all(torch.equal(x, before[name]) for name, x in stage.state_dict().items())
