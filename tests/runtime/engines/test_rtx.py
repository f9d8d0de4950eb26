"""The shipped stages in TensorRT-RTX itself: parsed and compiled on the CPU, nothing is run."""

import pytest

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.engines.build import build, parse
from rwcnet_runtime.engines.products import PRODUCTS
from rwcnet_runtime.engines.profile import DEFAULT_SHAPES, stage_profile

(PRODUCT,) = (product for product in PRODUCTS if product.name == "tensorrt-rtx")
BUNDLE = Bundle.open()

pytestmark = pytest.mark.skipif(
    PRODUCT.version is None, reason="needs TensorRT-RTX: pip install tensorrt-rtx"
)


@pytest.mark.parametrize("index", range(len(BUNDLE.manifest.stages)))
@pytest.mark.parametrize("precision", BUNDLE.engines)
def test_each_stage_is_parsed_and_built(precision, index, tmp_path):
    graph, entry = BUNDLE.stage_path(index, precision), BUNDLE.manifest.stages[index]
    assert parse(PRODUCT, graph)["refused"] == []
    plan, profile = tmp_path / "engine.plan", stage_profile(entry, DEFAULT_SHAPES)
    summary = build(PRODUCT, graph, plan, profile, stride=entry.stride, gpu=False, plugin=False)
    assert plan.stat().st_size > 100_000
    assert summary["of"] == "network"
    assert summary["plugin_layers"] == 0
    assert 0 < summary["fp32_layers"] < summary["layers"]
