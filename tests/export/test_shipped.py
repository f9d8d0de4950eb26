"""The bundle in the package against the weights in the package, and against what was measured."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from typer.testing import CliRunner

from rwcnet_export.bundle import weights_sha256
from rwcnet_export.cli import app
from rwcnet_export.graphs import resample_graph
from rwcnet_export.pipeline import pipeline_graph
from rwcnet_export.report import exporters
from rwcnet_ref.checkpoint import load_weights, shipped
from rwcnet_runtime.bundle import Bundle, sha256
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.preprocess import Padding, normalise

RESULTS = Path(__file__).parents[2] / "runtime" / "benchmarks" / "results"


@pytest.fixture(scope="module")
def measured():
    """The newest report of `rwcnet-export` on real pairs, which the READMEs are filled from."""
    return json.loads(max(RESULTS.glob("*-precisions.json")).read_text())


@pytest.fixture(scope="module")
def weights():
    return load_weights(shipped("base"))


def test_the_bundle_was_made_from_the_weights(weights):
    cascade, about = weights
    manifest = Bundle.open().manifest
    assert manifest.weights["sha256"] == weights_sha256(cascade)
    assert manifest.weights["licence"] == about["licence"] == "MIT"
    assert manifest.weights["training_data"] == about["training_data"]


def test_the_precisions_were_measured_on_the_bundle(measured):
    manifest = Bundle.open().manifest
    assert measured["weights"]["sha256"] == manifest.weights["sha256"]
    stages = {name: hash for name, hash in manifest.files.items() if "/stage" in name}
    assert stages == {name: measured["files"].get(name) for name in stages}


@pytest.fixture(scope="module")
def template():
    """A brain, float32 intensities of about 0 to 1, 1 mm."""
    nilearn = pytest.importorskip("nilearn.datasets", reason="needs the demo extra")
    return np.asarray(nilearn.load_mni152_template(resolution=1).dataobj, dtype=np.float32)


def test_the_runtime_registers_a_brain_as_torch_does(weights, template):
    """Patches included: a slab longer than one, so that there are two."""
    brain = normalise(template)
    fixed = np.ascontiguousarray(brain[86:110, 4:220, 68:92])[None, None]
    moving = np.ascontiguousarray(brain[84:108, 7:223, 67:91])[None, None] ** 0.8
    flow, _ = Cascade(Bundle.open()).run(fixed, moving)
    with torch.inference_mode():
        expected = weights[0](torch.from_numpy(fixed), torch.from_numpy(moving)).numpy()
    assert np.abs(expected).mean() > 0.5  # voxels: they are apart by (-2, 3, -1)
    assert np.abs(flow - expected).max() < 0.02  # voxels


def test_the_pipeline_registers_a_brain_as_the_runtime_does(template):
    """A slab longer than a patch, so that there are two; no axis is a multiple of four."""
    bundle = Bundle.open()
    model = pipeline_graph(bundle.folder, bundle.manifest, resample_graph())
    session = ort.InferenceSession(model.SerializeToString())
    fixed = 700 * template[88:107, 6:223, 70:93] + 40
    moving = 255 * template[86:105, 9:226, 69:92] ** 0.8
    flow, _ = session.run(None, {"fixed": fixed[None, None], "moving": moving[None, None]})
    padding = Padding.to_multiple(fixed.shape, bundle.manifest.multiple)
    images = [padding.apply(normalise(x))[None, None] for x in (fixed, moving)]
    expected = padding.remove(Cascade(bundle).run(*images)[0])
    assert np.abs(expected).mean() > 0.5  # voxels: they are apart by (-2, 3, -1)
    assert np.abs(flow - expected).max() < 1e-3  # voxels


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_bundle_is_what_an_export_of_the_weights_gives(tmp_path, measured):
    """File by file, so that graphs, manifest and exporter cannot drift apart."""
    engines = [word for engine in Bundle.open().engines for word in ("--engine", engine)]
    result = CliRunner().invoke(app, ["--stage", "all", *engines, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    packaged, new = (
        {
            path.relative_to(folder).as_posix(): sha256(path)
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (Bundle.open().folder, tmp_path)
    )
    other = sorted(name for name in packaged.keys() | new if packaged.get(name) != new.get(name))
    made_with = {name: measured["environment"]["versions"][name] for name in exporters()}
    assert not other, (
        f"{', '.join(other)} in the package differ from an export of the weights in it: run "
        f"rwcnet-export --stage all {' '.join(engines)} -o runtime/rwcnet_runtime/bundles/base and "
        f"commit what changes. It was made with {made_with}, here are {exporters()}."
    )
