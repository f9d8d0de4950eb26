"""The bundle in the package against the weights in the package."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from rwcnet_export.bundle import weights_sha256
from rwcnet_export.graphs import resample_graph
from rwcnet_export.pipeline import pipeline_graph
from rwcnet_ref.checkpoint import load_weights, shipped
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.preprocess import Padding, normalise


@pytest.fixture(scope="module")
def weights():
    return load_weights(shipped("base"))


def test_the_bundle_was_made_from_the_weights(weights):
    cascade, about = weights
    manifest = Bundle.open().manifest
    assert manifest.weights["sha256"] == weights_sha256(cascade)
    assert manifest.weights["licence"] == about["licence"] == "MIT"
    assert manifest.weights["training_data"] == about["training_data"]


@pytest.fixture(scope="module")
def template():
    """A brain, float32 intensities of about 0 to 1, 1 mm."""
    nilearn = pytest.importorskip("nilearn.datasets", reason="needs the demo extra")
    return np.asarray(nilearn.load_mni152_template(resolution=1).dataobj, dtype=np.float32)


def test_the_runtime_registers_a_brain_as_torch_does(weights, template):
    """Patches included: at this size two of them along one axis, twice."""
    brain = normalise(template)
    fixed = np.ascontiguousarray(brain[30:166:1, 40:176:1, 60:124])[None, None]
    moving = np.ascontiguousarray(brain[33:169:1, 38:174:1, 62:126])[None, None] ** 0.8
    flow, _ = Cascade(Bundle.open()).run(fixed, moving)
    with torch.inference_mode():
        expected = weights[0](torch.from_numpy(fixed), torch.from_numpy(moving)).numpy()
    assert np.abs(expected).mean() > 0.5  # voxels: they are apart by (3, -2, 2)
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
