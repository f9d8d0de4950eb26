import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_four_packages_the_bundle_and_the_weights(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"rwcnet_ref", "rwcnet_export", "rwcnet_runtime", "rwcnet_calibration"}
    for name in (
        "rwcnet_runtime/bundles/base/manifest.json",
        "rwcnet_runtime/bundles/base/fp32/stage1.onnx",
        "rwcnet_runtime/kernels/local_correlation.cu",
        "rwcnet_runtime/py.typed",
        "rwcnet_runtime/report/style.css",
        "rwcnet_ref/weights/base.safetensors",
        "rwcnet_ref/weights/base.md",
        "rwcnet_ref/configs/ten-minutes.toml",
    ):
        assert name in names


def test_the_installed_runtime_finds_its_bundle_away_from_the_source(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from rwcnet_runtime import Bundle; b = Bundle.open(); print(b.folder, b.manifest.name)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [
        str(tmp_path / "site" / "rwcnet_runtime" / "bundles" / "base"),
        "base",
    ]


@pytest.mark.slow
def test_the_wheel_alone_registers_in_an_environment_without_torch(wheel, tmp_path):
    """Needs the package index: what a user without any extra gets."""
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([scripts / "pip", "install", "--quiet", wheel], check=True)
    names = subprocess.run([scripts / "pip", "list"], capture_output=True, text=True, check=True)
    installed = {line.split()[0].lower() for line in names.stdout.splitlines()[2:]}
    assert "onnxruntime" in installed
    assert not installed & {"torch", "onnx", "onnxscript", "safetensors", "scipy", "nilearn"}
    values = np.random.default_rng(0).random((30, 28, 33), dtype=np.float32)
    image = nib.Nifti1Image(values, np.eye(4))
    image.set_sform(np.eye(4), code=1)
    nib.save(image, tmp_path / "image.nii.gz")
    infer = [scripts / "rwcnet-infer", "image.nii.gz", "image.nii.gz", "-o", "out"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(infer, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "out" / "warped.nii.gz").is_file()
