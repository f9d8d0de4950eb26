import json
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from rwcnet_runtime import register
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
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
    result = CliRunner().invoke(infer_app, [*map(str, order), "--init", "header", "-o", str(out)])
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
        ("--anatomy", "knee", "generic, brain, lung, abdomen"),
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
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "device cpu" in ended.stdout
    assert "backend onnxruntime: the fastest that works here; " in ended.stdout
    assert 'OpenVINO is not installed: pip install "rwcnet[openvino]"' in ended.stdout
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"warped.nii.gz", "displacement.nii.gz", "registration.json"}


QUICK = ("--backend", "onnxruntime", "--threads", "1", "--refine", "2")


def run(*arguments, code=0):
    result = CliRunner().invoke(infer_app, [*map(str, arguments), *QUICK])
    assert result.exit_code == code, result.output
    return result


def test_results_are_not_overwritten_unasked(tmp_path, good):
    out = tmp_path / "out"
    run(good, good, "-o", out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    result = run(good, good, "-o", out, code=2)
    assert "out holds warped.nii.gz, displacement.nii.gz, registration.json already" in (
        result.stderr
    )
    assert "--overwrite" in result.stderr
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (out / "warped.nii.gz").write_text("old")
    run(good, good, "-o", out, "--overwrite")
    assert nib.load(out / "warped.nii.gz").shape == GOOD.shape


def test_labels_are_brought_along(tmp_path, good):
    labels, out = tmp_path / "labels.nii.gz", tmp_path / "out"
    shifted = np.eye(4)
    shifted[0, 3] = 2  # mm; on a grid of their own
    data = RNG.integers(0, 900, (30, 20, 28)).astype(np.int16)
    save(labels, data, shifted)
    run(good, good, "-o", out, "--labels", labels)
    warped = nib.load(out / "warped_labels.nii.gz")
    assert warped.get_data_dtype() == np.int32
    field = nib.load(out / "displacement.nii.gz").get_fdata()[:, :, :, 0] * (-1, -1, 1)  # RAS
    for x in ([3, 4, 5], [12, 10, 14], [20, 15, 20]):
        where = np.array(x) + field[tuple(x)] - (2, 0, 0)
        nearest = np.floor(where + 0.5).astype(int)
        inside = ((nearest >= 0) & (nearest < data.shape)).all()
        assert warped.dataobj[tuple(x)] == (data[tuple(nearest)] if inside else 0)
    # Of the earlier result nothing is left that the new one does not have.
    run(good, good, "-o", out, "--overwrite")
    outputs = json.loads((out / "registration.json").read_text())["outputs"]
    assert outputs == {
        "warped": "warped.nii.gz",
        "displacement": "displacement.nii.gz",
        "report": "registration.json",
    }
    assert set(outputs.values()) == {path.name for path in out.iterdir()}


def test_labels_are_no_result_over_themselves(tmp_path, good):
    own = tmp_path / "warped_labels.nii.gz"
    save(own, np.ones((4, 4, 4), np.int16))
    result = run(good, good, "-o", tmp_path, "--labels", own, "--overwrite", code=2)
    assert "warped_labels.nii.gz would be replaced by a result" in result.stderr


def test_a_dry_run_says_and_writes_nothing(tmp_path, good):
    out = tmp_path / "out"
    said = run(good, good, "-o", out, "--dry-run").stdout
    for line in (
        "backend onnxruntime: asked for",
        "grid                24 x 20 x 28 voxels of 1 x 1 x 1 mm",
        "refinement          at most 2 steps on MIND-SSC",
        f"would write {out / 'displacement.nii.gz'}",
    ):
        assert line in said.splitlines()
    assert "\nstart header: " in said
    plan = json.loads(run(good, good, "-o", out, "--dry-run", "--json").stdout)
    assert plan["fixed"] == str(good)
    assert plan["outputs"]["report"] == "registration.json"
    assert not out.exists()
    said = run(good, good, "-o", out, "--dry-run", "--anatomy", "lung").stdout
    assert "anatomy lung: settings of generic, as no others were found better" in said
    assert "nowhere" in run(good, tmp_path / "nowhere.nii", "--dry-run", code=2).stderr


def test_json_quiet_and_verbose(tmp_path, good):
    result = run(good, good, "-o", tmp_path / "json", "--json")
    assert result.stdout == (tmp_path / "json" / "registration.json").read_text()
    assert result.stderr == ""
    result = run(good, good, "-o", tmp_path / "quiet", "--quiet")
    assert result.output == ""
    result = run(good, good, "-o", tmp_path / "verbose", "--verbose")
    assert re.search(r"^  stage2 +\d+\.\d\d s$", result.stdout, re.MULTILINE)
    result = run(good, good, "--json", "--quiet", code=2)
    assert "--json, --quiet and --verbose exclude each other" in result.stderr


def test_the_same_bits_twice_and_no_date(tmp_path):
    """Also of images that are aligned first, by an optimiser that adds up over many voxels."""
    texture = gaussian_filter(np.random.default_rng(0).random((32, 32, 32)), 4)
    texture = (texture - texture.min()) / np.ptp(texture)
    images = [tmp_path / "fixed.nii", tmp_path / "moving.nii"]
    save(images[0], texture)
    save(images[1], np.roll(texture, 2, axis=0) ** 2)
    for name in ("once", "twice"):
        run(*images, "-o", tmp_path / name, "--init", "rigid", "--deterministic")
    for once in (tmp_path / "once").iterdir():
        assert once.read_bytes() == (tmp_path / "twice" / once.name).read_bytes(), once.name
    report = json.loads((tmp_path / "once" / "registration.json").read_text())
    assert not {"date", "seconds"} & report.keys()


def test_a_backend_that_does_not_promise_the_same_bits_is_refused(tmp_path, good, monkeypatch):
    monkeypatch.setattr(OnnxRuntimeCpu, "on_gpu", True)
    result = run(good, good, "-o", tmp_path / "out", "--deterministic", code=2)
    assert "onnxruntime does not promise the same bits twice" in result.stderr


@pytest.mark.parametrize(("level", "force", "code"), [
    ("failed", [], 3), ("failed", ["--force"], 0), ("check", [], 0), ("ok", [], 0),
])  # fmt: skip
def test_a_failed_verdict_is_an_exit_code(tmp_path, good, monkeypatch, level, force, code):
    def with_verdict(*arguments, **options):
        found = register(*arguments, **options)
        found.report["verdict"] = {"level": level, "reasons": []}
        return found

    monkeypatch.setattr("rwcnet_runtime.cli.register", with_verdict)
    run(good, good, "-o", tmp_path / "out", *force, code=code)
    assert (tmp_path / "out" / "warped.nii.gz").is_file()


def test_masks_say_where_the_refinement_compares(tmp_path, good):
    """Half of a mask pair has the weight of the other half, brought along by the start."""
    left, right = (np.zeros(GOOD.shape, np.uint8) for _ in range(2))
    left[:12], right[12:] = 1, 1
    save(tmp_path / "left.nii", left)
    save(tmp_path / "right.nii", right)
    both = ["--mask", tmp_path / "left.nii", "--moving-mask", tmp_path / "right.nii"]
    result = run(good, good, "-o", tmp_path / "out", *both, code=2)
    assert "the masks do not overlap in the world" in result.stderr
    fields = []
    for name, masks in (("fixed", both[:2]), ("moving", ["--moving-mask", both[1]]), ("none", [])):
        run(good, good, "-o", tmp_path / name, *masks)
        fields.append((tmp_path / name / "displacement.nii.gz").read_bytes())
    # Where both images lie in one place, it does not matter whose mask it is.
    assert fields[0] == fields[1] != fields[2]
