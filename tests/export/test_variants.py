"""Weights that bring their own sizes: what the runtime does with them is what torch does."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from typer.testing import CliRunner

from rwcnet_export.cases import random_weights
from rwcnet_export.cli import app
from rwcnet_ref.build import build
from rwcnet_ref.checkpoint import save_weights
from rwcnet_ref.config import THESIS, TINY, ModelConfig
from rwcnet_ref.pairs import SyntheticSource
from rwcnet_runtime import register
from rwcnet_runtime.backends.onnxruntime_cpu import Session
from rwcnet_runtime.bundle import MANIFEST, Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.preprocess import FIXED_RANGE, Padding, normalise

_SMALL = replace(THESIS.stages[2], steps=2, radius=1, features=8, hidden=8)
VARIANTS = {
    "published": ModelConfig(
        "small", (replace(_SMALL, resolution=2, parts=1), _SMALL), published=True
    ),
    "velocity": replace(TINY, stages=tuple(replace(s, velocity=True) for s in TINY.stages[1:])),
    # With a stride that ends before the last stage, as in `base`.
    "strided": replace(
        TINY,
        stages=(
            replace(TINY.stages[0], resolution=2, stride=2),
            replace(TINY.stages[1], resolution=1, stride=2),
            TINY.stages[2],
        ),
    ),
    # Hidden states that stay inside, in the middle of the chain as well.
    "uninherited": replace(TINY, stages=(*TINY.stages[:2], replace(TINY.stages[2], inherit=False))),
    # Of a single resolution, too.
    "uncorrelated": replace(TINY, stages=(replace(TINY.stages[2], steps=3, correlate=False),)),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tmp_path_factory):
    """A model, and the bundle that the command made of its weights alone."""
    folder = tmp_path_factory.mktemp("variant")
    cascade = random_weights(VARIANTS[request.param]).requires_grad_(False)
    save_weights(cascade, folder / "weights.safetensors", licence="CC0-1.0")
    arguments = ["--stage", "all", "--weights", folder / "weights.safetensors"]
    result = CliRunner().invoke(app, [*map(str, arguments), "-o", str(folder / "bundle")])
    assert result.exit_code == 0, result.output
    return cascade, Bundle.open(folder / "bundle")


def test_the_runtime_does_what_torch_does(variant):
    cascade, bundle = variant
    assert bundle.manifest.weights["licence"] == "CC0-1.0"
    runtime = Cascade(bundle)
    for size in ((64, 32, 48), (32, 48, 32)):
        pair = SyntheticSource(size, 1, amplitude=6).draw(torch.Generator().manual_seed(0))
        expected = cascade(pair.fixed, pair.moving).numpy()
        flow, _ = runtime.run(pair.fixed.numpy(), pair.moving.numpy())
        assert flow.shape == expected.shape
        assert np.abs(flow - expected).max() < 1e-3  # voxels
        assert np.abs(expected).max() > 1  # voxels


def test_the_pipeline_does_what_the_runtime_does(variant):
    _, bundle = variant
    pair = SyntheticSource((64, 32, 48), 1, amplitude=6).draw(torch.Generator().manual_seed(0))
    fixed, moving = (x[..., :60, :31, :45].numpy() for x in (pair.fixed, pair.moving))
    padding = Padding.to_multiple(fixed.shape[2:], bundle.manifest.multiple)
    flow, _ = Cascade(bundle).run(*(padding.apply(normalise(x)) for x in (fixed, moving)))
    expected = padding.remove(flow)
    session = ort.InferenceSession(bundle.graph_path("pipeline.onnx"))
    found, _ = session.run(None, {"fixed": fixed, "moving": moving})
    assert np.abs(found - expected).max() < 1e-3  # voxels
    assert np.abs(expected).max() > 1  # voxels


def test_encoders_are_those_of_torch(variant):
    cascade, bundle = variant
    image = torch.rand((2, 1, 16, 32, 24), generator=torch.Generator().manual_seed(0))
    for n in range(len(cascade.stages)):
        (found,) = Session(bundle.graph_path(f"features{n + 1}.onnx")).run(image=image.numpy())
        expected = cascade.stage(n).features(image).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_manifest_says_how_the_chain_goes(variant):
    cascade, bundle = variant
    config, manifest = cascade.config, bundle.manifest
    assert manifest.multiple == config.multiple
    assert manifest.reduction == ("nearest" if config.published else "average")
    assert [stage.parts for stage in manifest.stages] == [s.parts for s in config.stages]
    assert [stage.stride for stage in manifest.stages] == [s.stride for s in config.stages]
    assert [stage.inherits for stage in manifest.stages] == [
        n > 0 and s.inherit for n, s in enumerate(config.stages)
    ]


def test_graphs_take_what_the_encoders_take(variant):
    cascade, bundle = variant
    model = onnx.load(bundle.stage_path(0, "fp32"))
    calls = [node for node in model.graph.node if node.op_type == "LocalCorrelation3d"]
    metrics = {a.s for node in calls for a in node.attribute if a.name == "metric"}
    first = cascade.config.stages[0]
    dims = {
        value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim[2:]]
        for value in model.graph.input
    }
    if cascade.config.published:
        assert metrics == {b"absolute_difference"}
        assert dims["fixed"] == dims["moving"] == ["8*i", "8*j", "8*k"]
    else:
        assert metrics == ({b"dot"} if first.correlate else set())
        expected = ["2*i", "2*j", "2*k"] if first.stride == 2 else ["i", "j", "k"]
        assert dims["fixed"] == dims["moving"] == expected
    assert "hidden" not in dims


def test_a_batch_goes_through_the_stages(variant):
    cascade, bundle = variant
    random = torch.Generator().manual_seed(0)
    grid = (16, 32, 24)
    for index, config in enumerate(cascade.config.stages):
        fixed, moving = torch.rand((2, 2, 1, *grid), generator=random)
        inputs = {"fixed": fixed, "moving": moving}
        if cascade.config.inherits(index):
            coarse = (n // config.stride for n in grid)
            inputs["hidden"] = torch.rand((2, config.hidden, *coarse), generator=random)
        expected = cascade.stage(index)(**inputs)
        session = Session(bundle.stage_path(index, "fp32"))
        found = session.run(**{name: x.numpy() for name, x in inputs.items()})
        for one, other in zip(found, expected, strict=cascade.config.inherits(index + 1)):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-3)  # voxels


def test_files_are_registered_from_end_to_end(variant, make_grid, save_phantom, tmp_path):
    cascade, bundle = variant
    fixed = save_phantom(make_grid("RAS"), "fixed.nii.gz")
    moving = save_phantom(make_grid("PSR", scale=1.1), "moving.nii.gz")
    found = register(fixed, moving, bundle=bundle.folder)
    found.save(tmp_path / "out")
    assert found.displacement_mm.shape == (*found.fixed.grid.shape, 3)
    assert np.isfinite(found.displacement_mm).all()
    assert found.report["bundle"]["name"] == cascade.config.name


def test_a_fixed_range_reaches_the_network(exported, make_grid, save_phantom, tmp_path):
    fixed = save_phantom(make_grid("RAS"), "fixed.nii.gz")
    moving = save_phantom(make_grid("RAS", centre=(2, 0, 0)), "moving.nii.gz")
    folder = shutil.copytree(exported, tmp_path / "bundle")
    manifest, found = Bundle.open(folder).manifest, []
    for highest in (120.0, 240.0):
        other = replace(manifest, intensity=FIXED_RANGE, intensity_range=(0.0, highest))
        (folder / MANIFEST).write_text(other.to_json())
        found.append(register(fixed, moving, bundle=folder).displacement_mm)
    assert np.abs(found[0] - found[1]).max() > 0.01  # mm


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_published_checkpoints_run_as_the_published_code(golden_folder, golden_weights, tmp_path):
    """The command, the bundle and the runtime against the golden file, at its full size."""
    cascade = build(THESIS)
    paths = [tmp_path / f"stage{n}.pth" for n in (1, 2, 3)]
    for stage, path in zip(cascade.stages, paths, strict=True):
        torch.save(golden_weights(stage.state_dict()), path)
    arguments = ["--stage", "all", "--published", *paths, "--intensity", "-4e-3", "16e3"]
    folder = tmp_path / "bundle"
    result = CliRunner().invoke(app, [*map(str, arguments), "-o", str(folder)])
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(folder)
    assert bundle.manifest.intensity_range == (-4e-3, 16e3)
    with np.load(golden_folder / "rwcnet_published_golden.npz") as golden:
        fixed, moving = (golden[name][None, None] for name in ("fixed", "moving"))
        flow, _ = Cascade(bundle).run(fixed, moving)
        found = flow[0, :, ::2, ::2, ::2]
        np.testing.assert_allclose(found, golden["flow3"], rtol=0, atol=1e-3)  # voxels
