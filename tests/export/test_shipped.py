"""The bundle in the package against the weights in the package."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rwcnet_export.bundle import weights_sha256
from rwcnet_export.cli import app
from rwcnet_ref.checkpoint import load_weights, shipped
from rwcnet_runtime.bundle import Bundle, sha256
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.preprocess import normalise


@pytest.fixture(scope="module")
def weights():
    return load_weights(shipped("base"))


def test_the_bundle_was_made_from_the_weights(weights):
    cascade, about = weights
    manifest = Bundle.open().manifest
    assert manifest.weights["sha256"] == weights_sha256(cascade)
    assert manifest.weights["licence"] == about["licence"] == "MIT"
    assert manifest.weights["training_data"] == about["training_data"]


def test_the_runtime_registers_a_brain_as_torch_does(weights):
    """Patches included: at this size two of them along one axis, twice."""
    nilearn = pytest.importorskip("nilearn.datasets", reason="needs the demo extra")
    template = nilearn.load_mni152_template(resolution=1)
    brain = normalise(np.asarray(template.dataobj, dtype=np.float32))
    fixed = np.ascontiguousarray(brain[30:166:1, 40:176:1, 60:124])[None, None]
    moving = np.ascontiguousarray(brain[33:169:1, 38:174:1, 62:126])[None, None] ** 0.8
    flow, _ = Cascade(Bundle.open()).run(fixed, moving)
    with torch.inference_mode():
        expected = weights[0](torch.from_numpy(fixed), torch.from_numpy(moving)).numpy()
    assert np.abs(expected).mean() > 0.5  # voxels: they are apart by (3, -2, 2)
    assert np.abs(flow - expected).max() < 0.02  # voxels


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_bundle_is_what_an_export_of_the_weights_gives(tmp_path):
    """File by file, so that graphs, manifest and exporter cannot drift apart."""
    result = CliRunner().invoke(app, ["--stage", "all", "-o", str(tmp_path)])
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
    assert not other, (
        f"{', '.join(other)} in the package differ from an export of the weights in it: run "
        "rwcnet-export --stage all -o runtime/rwcnet_runtime/bundles/base and commit what changes"
    )
