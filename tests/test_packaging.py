import subprocess
import sys
import zipfile
from pathlib import Path

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
        "rwcnet_runtime/py.typed",
        "rwcnet_ref/weights/base.safetensors",
        "rwcnet_ref/weights/base.md",
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
