import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from rwcnet_runtime.cli import infer_app

RNG = np.random.default_rng(0)
GOOD = RNG.random((24, 20, 28)).astype(np.float32)


def save(path, data, affine=None):
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def good(tmp_path):
    save(tmp_path / "good.nii.gz", GOOD)
    return tmp_path / "good.nii.gz"


def make_bad(kind, path):
    far = np.eye(4)
    far[:3, 3] = 500
    with_nan = GOOD.copy()
    with_nan[3, 4, 5] = np.nan
    match kind:
        case "text":
            path.write_text("this is not an image")
        case "four":
            save(path, RNG.random((8, 8, 8, 3)).astype(np.float32))
        case "empty":
            save(path, np.zeros((0, 8, 8), np.float32))
        case "nan":
            save(path, with_nan)
        case "constant":
            save(path, np.full((8, 8, 8), 7, np.float32))
        case "far":
            save(path, GOOD, far)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "bad.nii"),
        ("text", "bad.nii"),
        ("four", "bad.nii"),
        ("empty", "bad.nii"),
        ("nan", "bad.nii"),
        ("constant", "bad.nii"),
        ("far", "overlap"),
    ],
)
@pytest.mark.parametrize("bad_is_fixed", [True, False])
def test_bad_input_gets_one_sentence_and_leaves_nothing(tmp_path, good, kind, says, bad_is_fixed):
    bad, out = tmp_path / "bad.nii", tmp_path / "out"
    make_bad(kind, bad)
    order = [bad, good] if bad_is_fixed else [good, bad]
    result = CliRunner().invoke(infer_app, [*map(str, order), "-o", str(out)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--engine", "fp64", "fp32"),
        ("--initial-transform", "nowhere.tfm", "nowhere.tfm"),
        ("--bundle", "nowhere", "nowhere"),
        ("--refine", "-3", "give 0 or more"),
        ("--refine-features", "intensity", "mind, learned, both"),
        ("--mask", "nowhere.nii", "nowhere.nii"),
        ("--moving-mask", "nowhere.nii", "nowhere.nii"),
        ("--labels", "nowhere.nii", "nowhere.nii"),
    ],
)
def test_bad_options_are_named(tmp_path, good, option, value, says):
    out = tmp_path / "out"
    result = CliRunner().invoke(infer_app, [str(good), str(good), option, value, "-o", str(out)])
    assert result.exit_code == 2
    assert says in result.stderr
    assert not out.exists()


def test_an_output_folder_that_is_a_file_is_refused(tmp_path, good):
    (tmp_path / "out").write_text("in the way")
    result = CliRunner().invoke(infer_app, [str(good), str(good), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert str(tmp_path / "out") in result.stderr
    assert (tmp_path / "out").read_text() == "in the way"


def test_a_run_needs_neither_torch_nor_onnx(tmp_path, good):
    """In a process where importing them fails, as on a machine with a plain installation."""
    code = (
        "import sys\n"
        "absent = 'torch', 'onnx', 'onnxscript', 'safetensors', 'scipy', 'nilearn', 'openvino'\n"
        "for name in absent:\n"
        "    sys.modules[name] = None\n"
        "from rwcnet_runtime.cli import infer_app\n"
        "infer_app(sys.argv[1:])\n"
    )
    arguments = [str(good), str(good), "-o", str(tmp_path / "out")]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "device cpu" in run.stdout
    assert "backend onnxruntime: the fastest that works here; " in run.stdout
    assert 'OpenVINO is not installed: pip install "rwcnet[openvino]"' in run.stdout
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"warped.nii.gz", "displacement.nii.gz", "registration.json"}
