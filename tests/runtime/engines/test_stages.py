"""Engines of a bundle: built once, found again, built anew when damaged or for other facts."""

import json
from dataclasses import replace

import pytest

from rwcnet_runtime.bundle import MANIFEST, Bundle
from rwcnet_runtime.devices import Gpu
from rwcnet_runtime.engines import stages as module
from rwcnet_runtime.engines.cache import PlanCache
from rwcnet_runtime.engines.products import find_product
from rwcnet_runtime.engines.profile import stage_profile
from rwcnet_runtime.engines.stages import compile_chain, compile_stages, fitting_plan, misfit
from rwcnet_runtime.errors import BackendError

SHAPES = [(64, 64, 64)]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(module, "gpus", list)


@pytest.fixture
def bundle(with_precisions):
    """One precision."""
    return Bundle.open(with_precisions())


def compiled(product, bundle, stages=(0,)):
    said = []
    plans = compile_stages(bundle, product, SHAPES, stages, said.append)
    return plans, said


def test_an_engine_is_built_once(install, bundle):
    product = install("tensorrt-rtx")
    (first,), (built,) = compiled(product, bundle)
    (second,), (found,) = compiled(product, bundle)
    assert built.startswith("fp32/stage1.onnx: engine built in ")
    assert "(not run), tensorrt-rtx 9.9 without a GPU, 0.0 MiB, grids 32x32x32 to 32x32x32" in built
    assert built.endswith(
        "network of 7 layers, of them 4 floating point: 2 in fp32, 1 in fp16, 1 in bf16; "
        "1 of the plugin"
    )
    assert found.startswith("fp32/stage1.onnx: engine found in the cache, tensorrt-rtx 9.9")
    assert first == second
    assert json.loads(first.read())["sizes"] == {
        name: 3 * [[1, 1, 32, 32, 32]] for name in ("fixed", "moving")
    }


def test_a_damaged_engine_is_built_again(install, bundle):
    product = install("tensorrt-rtx")
    (plan,), _ = compiled(product, bundle)
    plan.path.write_bytes(b"something else")
    (again,), said = compiled(product, bundle)
    assert again == plan
    assert again.read() != b"something else"
    assert said[0] == "fp32/stage1.onnx: the engine in the cache is damaged and is built again"
    assert said[1].startswith("fp32/stage1.onnx: engine built in ")


def test_another_gpu_driver_or_size_is_another_engine(install, bundle, monkeypatch):
    product = install("tensorrt")
    a, b = Gpu("NVIDIA L4", "8.9", "580.1"), Gpu("NVIDIA L4", "8.9", "581.0")
    for gpus in ([], [a], [b]):
        monkeypatch.setattr(module, "gpus", lambda gpus=gpus: gpus)
        compiled(product, bundle)
    compile_stages(bundle, product, [(64, 64, 96)], [0])
    plans = PlanCache().plans()
    assert len(plans) == 4
    assert sorted((plan.facts["driver"], plan.summary["of"]) for plan in plans) == [
        ("580.1", "engine"),
        ("581.0", "engine"),
        ("581.0", "engine"),
        ("none", "network"),
    ]


def test_every_precision_is_built(install, with_precisions):
    folder = with_precisions("fp16")
    manifest = Bundle.open(folder).manifest
    files = {name: x for name, x in manifest.files.items() if name != "fp16/stage1.onnx"}
    (folder / MANIFEST).write_text(replace(manifest, files=files).to_json())
    plans, said = compiled(install("tensorrt-rtx"), Bundle.open(folder), stages=(0, 1))
    # Stage 1 is not there in fp16.
    assert [line.split(":")[0] for line in said] == [
        "fp32/stage1.onnx",
        "fp16/stage2.onnx",
        "fp32/stage2.onnx",
    ]
    assert [plan.facts["precision"] for plan in plans] == ["fp32", "fp16", "fp32"]


def test_times_go_into_the_cache_of_tensorrt_alone(install, bundle):
    for name, count in (("tensorrt-rtx", 0), ("tensorrt", 1)):
        install(name)
        compiled(find_product(name), bundle, stages=(0, 1))
        assert len(list(PlanCache().folder.glob("*.timing"))) == count


def test_a_build_that_fails_leaves_nothing(install, bundle):
    product = install("tensorrt-rtx", "import os; os.abort()")
    with pytest.raises(BackendError, match="SIGABRT"):
        compiled(product, bundle)
    cache = PlanCache()
    assert cache.plans() == []
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_an_engine_that_is_there_needs_no_lock(install, bundle):
    product = install("tensorrt-rtx")
    (plan,), _ = compiled(product, bundle)
    with PlanCache().building(print):  # this process would wait for itself for an hour
        assert compiled(product, bundle)[0] == [plan]


def test_an_engine_built_meanwhile_is_not_built_again(install, bundle, monkeypatch):
    product = install("tensorrt-rtx")
    (plan,), _ = compiled(product, bundle)
    find, looks = PlanCache.find, []

    def late(cache, facts):
        looks.append(facts)
        return find(cache, facts) if len(looks) > 1 else None

    monkeypatch.setattr(PlanCache, "find", late)
    (again,), said = compiled(product, bundle)
    assert again == plan
    assert said[0].startswith("fp32/stage1.onnx: engine found in the cache, ")


def test_where_a_plan_fits(install, bundle, monkeypatch):
    here = Gpu("NVIDIA L4", "8.9", "580.1")
    monkeypatch.setattr(module, "gpus", lambda: [here])
    (plan,), (said,) = compiled(install("tensorrt"), bundle)
    assert "tensorrt 9.9 for GPU NVIDIA L4, " in said
    assert misfit(plan, here) == ""
    assert misfit(plan, replace(here, driver="581")) == "driver 580.1 (here 581)"
    assert misfit(plan, None) == (
        "gpu NVIDIA L4 (here none), sm 8.9 (here none), driver 580.1 (here none)"
    )
    monkeypatch.setattr("rwcnet_runtime.engines.products.version_of", lambda name: None)
    assert misfit(plan, here) == "version 9.9 (here none)"


def test_the_chain_is_built_for_whole_images(install, bundle):
    plans = compile_chain(bundle, install("tensorrt"), SHAPES)
    assert [json.loads(plan.read())["sizes"].keys() for plan in plans] == [
        {"moving", "flow", "hidden"},
        {"moving", "flow"},
        {"step", "below"},
    ]
    entering = json.loads(plans[0].read())["sizes"]
    # From the half grid of stage 1, whose recurrence lies on a quarter of it.
    assert entering["moving"][1] == [1, 1, 64, 64, 64]
    assert entering["flow"][1] == [1, 3, 32, 32, 32]
    assert entering["hidden"][1] == [1, 16, 16, 16, 16]


def test_an_engine_is_found_for_the_sizes_it_takes(install, bundle, monkeypatch):
    product, entry = install("tensorrt"), bundle.manifest.stages[0]

    def found(shape, precision="fp32"):
        needed = stage_profile(entry, [shape])
        return fitting_plan(bundle, product, "fp32/stage1.onnx", precision, needed)

    assert found((64, 64, 64)) is None
    (wide,) = compile_stages(bundle, product, [(96, 96, 96), (32, 32, 32), (128, 128, 128)], [0])
    assert found((64, 64, 64)) == wide
    assert found((64, 64, 160)) is None
    assert found((64, 64, 64), "fp16") is None
    # One that was tuned for the size comes first, whichever is newer.
    ((exact,), _) = compiled(product, bundle)
    assert found((64, 64, 64)) == exact
    assert found((96, 96, 96)) == wide
    monkeypatch.setattr(module, "gpus", lambda: [Gpu("NVIDIA L4", "8.9", "580.1")])
    assert found((64, 64, 64)) is None
