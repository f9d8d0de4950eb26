"""What the gate measures, lets through and refuses."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from rwcnet_export import gate, precision
from rwcnet_export.cases import Case, whole_pair
from rwcnet_export.gate import FlowDifference, Graphs
from rwcnet_export.parity import ParityError
from rwcnet_export.rounding import rounding_graph
from rwcnet_ref.config import TINY
from rwcnet_ref.model import Cascade
from rwcnet_ref.pairs import SyntheticSource
from rwcnet_runtime.backends.onnxruntime_cpu import Session

SIZE = (36, 40, 28)  # in patches at full resolution


@pytest.fixture(scope="module")
def pair() -> Case:
    drawn = SyntheticSource(SIZE, resolution=1, amplitude=4).draw(torch.Generator().manual_seed(0))
    return Case("shapes", drawn.fixed, drawn.moving, None)


@pytest.fixture(scope="module")
def expected(cascade: Cascade, pair: Case) -> np.ndarray:
    with torch.inference_mode():
        return cascade(pair.fixed, pair.moving).numpy()


def _graphs(exported: Path, engine: str = "fp32") -> Graphs:
    stages = [onnx.load(exported / "fp32" / f"stage{n}.onnx") for n in (1, 2, 3)]
    if engine != "fp32":
        stages = [precision.lower(stage, engine) for stage in stages]
    return dict(enumerate(stages))


def test_the_difference_is_the_length_of_a_vector_at_each_voxel() -> None:
    expected = np.zeros((1, 3, 5, 5, 4), np.float32)
    expected[:, 0] = 2
    found = expected.copy()
    found[0, :, 0, 0, 0] += (3, 0, 4)
    row = FlowDifference.between("fp16", "shapes", found, expected)
    assert (row.engine, row.case, row.size) == ("fp16", "shapes", (5, 5, 4))
    assert (row.flow_vox, row.max_vox) == (2, 5)
    assert row.mean_vox == pytest.approx(0.05)
    assert row.p99_vox == pytest.approx(np.quantile([0.0] * 99 + [5.0], 0.99))


def test_fp32_graphs_in_the_place_of_stages_change_nothing(
    exported: Path, cascade: Cascade, pair: Case, expected: np.ndarray
) -> None:
    flow = gate.rounded_flow(cascade, _graphs(exported), pair)
    assert np.abs(flow - expected).max() < 1e-3  # voxels
    assert np.abs(expected).max() > 1
    # The chain itself is as it was.
    with torch.inference_mode():
        assert np.array_equal(cascade(pair.fixed, pair.moving).numpy(), expected)


def test_fp16_is_nearer_than_bf16_and_one_stage_alone_nearer_still(
    exported: Path, cascade: Cascade, pair: Case
) -> None:
    fp16, bf16 = _graphs(exported, "fp16"), _graphs(exported, "bf16")
    engines = {"one": {2: bf16[2]}, "fp16": fp16, "bf16": bf16}
    one, half, brief = gate.compare_engines(cascade, engines, pair)
    assert 0 < half.mean_vox < 0.3 * brief.mean_vox
    assert 0 < one.mean_vox < brief.mean_vox
    assert not gate.too_far(half, gate.MEAN_VOX)
    for row in (one, half, brief):
        assert 0 < row.mean_vox < row.p99_vox <= row.max_vox
    gate.require([half], gate.MEAN_VOX)


def test_overflow_is_refused(exported: Path, cascade: Cascade, pair: Case) -> None:
    """Features a million times as large: `UnitVoxels` makes the same of them, in fp32."""
    stages = {0: onnx.load(exported / "fp32" / "stage1.onnx")}
    for tensor in stages[0].graph.initializer:
        if tensor.name.startswith("features.3."):
            values = 1e6 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    engines = {engine: {0: precision.lower(stages[0], engine)} for engine in ("bf16", "fp16")}
    bf16, fp16 = gate.compare_engines(cascade, engines, pair)
    assert bf16.mean_vox < 0.5
    assert np.isnan(fp16.mean_vox)
    with pytest.raises(
        ParityError, match=r"^fp16 changes the flow by nan voxels .* shapes of size"
    ):
        gate.require([fp16], gate.MEAN_VOX)


@pytest.mark.parametrize("planted", [False, True])
def test_a_rule_that_lowers_the_flow_is_refused(
    planted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>'
        "g (float[1, 3, 6, 5, 7] x, float[1, 3, 6, 5, 7] y) => (float[1, 3, 6, 5, 7] flow)"
        "{ flow = Add (x, y) }"
    )
    if planted:
        monkeypatch.setattr(precision, "flow_path", lambda graph: set())
    onnx.save(rounding_graph(precision.lower(model, "bf16")), tmp_path / "sum.onnx")
    x, y = np.random.default_rng(0).uniform(10, 30, (2, 1, 3, 6, 5, 7)).astype(np.float32)
    (found,) = Session(tmp_path / "sum.onnx").run(x=x, y=y)
    row = FlowDifference.between("bf16", "shapes", found, x + y)
    assert gate.too_far(row, gate.MEAN_VOX) == planted
    if planted:
        with pytest.raises(ParityError, match=r"^bf16 changes the flow by 0\.\d+ voxels"):
            gate.require([row], gate.MEAN_VOX)


def test_the_pair_is_the_middle_of_the_images_or_shapes(cascade: Cascade) -> None:
    images = torch.rand((2, 1, 1, 132, 40, 160), generator=torch.Generator().manual_seed(0))
    case = whole_pair(cascade, (images[0], images[1]))
    assert case.name == "images"
    assert torch.equal(case.fixed, images[0, ..., 2:130, :, 16:144])
    assert torch.equal(case.moving, images[1, ..., 2:130, :, 16:144])
    case = whole_pair(cascade, None)
    assert case.name == "shapes"
    assert case.fixed.shape == case.moving.shape
    assert all(n % TINY.multiple == 0 for n in case.fixed.shape[2:])
