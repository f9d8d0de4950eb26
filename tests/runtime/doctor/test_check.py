from types import SimpleNamespace

import numpy as np
import pytest

from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.doctor import check
from rwcnet_runtime.errors import InputError


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """What a plain installation has."""
    monkeypatch.setattr(check, "BACKENDS", (OnnxRuntimeCpu,))


def test_differences_are_lengths_in_voxels(with_precisions, monkeypatch):
    flows = {"fp32": np.zeros((3, 10, 10, 10), np.float32)}
    flows["fp32"][2, 0, 0, 0] = -7
    flows["fp16"] = flows["fp32"].copy()
    flows["fp16"][0] += 0.3
    flows["fp16"][1] += 0.4
    flows["fp16"][0, 5, 5, :2] += 1.7  # two voxels of a thousand

    def register(fixed, moving, *, backend, engine, refine, bundle):
        return SimpleNamespace(mapping=SimpleNamespace(flow_vox=flows[engine]))

    monkeypatch.setattr(check, "register", register)
    bundle = Bundle.open(with_precisions("fp16"))
    said = list(check.compare_precisions(bundle, "fixed.nii", "moving.nii"))
    assert "largest displacement is 7.00 voxels" in said[0]
    far = np.hypot(2.0, 0.4)
    *names, mean, p99, most = said[2].split()
    assert names == ["onnxruntime", "fp16"]
    expected = [0.5 + 2 * (far - 0.5) / 1000, 0.5, far]
    np.testing.assert_allclose(list(map(float, (mean, p99, most))), expected, atol=1e-4)  # voxels


def test_fp32_alone_has_nothing_to_be_compared_with(with_precisions):
    bundle = Bundle.open(with_precisions())
    with pytest.raises(InputError, match="rwcnet-export --check"):
        next(check.compare_precisions(bundle, "fixed.nii", "moving.nii"))
