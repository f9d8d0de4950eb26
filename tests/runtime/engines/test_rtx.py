"""The shipped stages in TensorRT-RTX itself: parsed and compiled on the CPU, nothing is run."""

import pytest

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.engines.build import build, parse
from rwcnet_runtime.engines.products import PRODUCTS
from rwcnet_runtime.engines.profile import DEFAULT_SHAPES, chain_profile, stage_profile

(PRODUCT,) = (product for product in PRODUCTS if product.name == "tensorrt-rtx")
BUNDLE = Bundle.open()

pytestmark = pytest.mark.skipif(
    PRODUCT.version is None, reason="needs TensorRT-RTX: pip install tensorrt-rtx"
)


@pytest.mark.parametrize("index", range(len(BUNDLE.manifest.stages)))
def test_each_stage_is_parsed_and_built(index, tmp_path):
    entry, plan = BUNDLE.manifest.stages[index], tmp_path / "engine.plan"
    profile, built = stage_profile(entry, DEFAULT_SHAPES), {}
    for precision in BUNDLE.engines:
        graph = BUNDLE.stage_path(index, precision)
        assert parse(PRODUCT, graph)["refused"] == []
        summary = build(PRODUCT, graph, plan, profile, gpu=False, plugin=False)
        assert plan.stat().st_size > 100_000
        assert summary["of"] == "network"
        assert summary["plugin_layers"] == 0
        built[precision] = summary
    full, half = built["fp32"], built["fp16"]
    assert full["fp16_layers"] == full["bf16_layers"] == half["bf16_layers"] == 0
    assert 0 < full["fp32_layers"] < full["layers"]  # the others are about sizes
    # The flow path stays in fp32, all else is low.
    assert 0 < half["fp32_layers"] < full["fp32_layers"]
    assert half["fp16_layers"] > half["fp32_layers"]


@pytest.mark.parametrize("name", BUNDLE.chain)
def test_each_graph_between_stages_is_built(name, tmp_path):
    plan, profile = tmp_path / "engine.plan", chain_profile(BUNDLE.manifest, name, DEFAULT_SHAPES)
    summary = build(PRODUCT, BUNDLE.graph_path(name), plan, profile, gpu=False, plugin=False)
    assert plan.stat().st_size > 10_000
    assert summary["fp16_layers"] == 0 < summary["fp32_layers"]
