import dataclasses
import json
import shutil

import pytest

from rwcnet_runtime.bundle import MANIFEST, SCHEMA_VERSION, Bundle, Manifest, StageEntry
from rwcnet_runtime.errors import BackendError, BundleError
from rwcnet_runtime.preprocess import FIXED_RANGE


@pytest.fixture
def copy(tmp_path):
    """The shipped bundle, to be damaged."""
    return shutil.copytree(Bundle.open().folder, tmp_path / "bundle")


def test_the_shipped_bundle_is_whole_and_says_what_it_is():
    bundle = Bundle.open()
    assert bundle.manifest.name == "base"
    assert bundle.engines == ["fp16", "fp32"]
    assert [s.resolution * s.stride for s in bundle.manifest.stages] == [4, 2, 1]
    assert "synthseg" in bundle.manifest.weights["training_data"].lower()


def test_a_manifest_survives_its_file():
    manifest = Bundle.open().manifest
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_an_altered_file_is_refused(copy):
    with (copy / "fp32" / "stage2.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"stage2\.onnx"):
        Bundle.open(copy)


def test_a_missing_file_is_refused(copy):
    (copy / "enter2.onnx").unlink()
    with pytest.raises(BundleError, match=r"enter2\.onnx is missing"):
        Bundle.open(copy)


def test_a_bundle_without_a_stage_is_refused(copy):
    manifest = Bundle.open(copy).manifest
    files = {name: value for name, value in manifest.files.items() if "stage3" not in name}
    (copy / MANIFEST).write_text(dataclasses.replace(manifest, files=files).to_json())
    with pytest.raises(BundleError, match="stage3"):
        Bundle.open(copy).stage_path(2, "fp32")


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION - 1, 99])
def test_another_schema_version_is_refused_with_advice(copy, version):
    fields = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(fields | {"schema_version": version}))
    with pytest.raises(BundleError, match="export it again") as caught:
        Bundle.open(copy)
    assert ("update rwcnet" in str(caught.value)) == (version == 99)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"schema_version": 4}', b"\xff\xfe"])
def test_a_manifest_that_is_none_is_refused(copy, text):
    (copy / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.open(copy)


@pytest.mark.parametrize("stride", [0, -2, 1.5, None])
def test_a_stride_that_is_none_is_refused(stride):
    sizes = {"resolution": 4, "steps": 1, "radius": 1, "inherits": True, "patch": None, "halo": 0}
    assert StageEntry(**sizes, parts=1, stride=2).stride == 2
    with pytest.raises(ValueError, match=f"stride={stride}"):
        StageEntry(**sizes, parts=1, stride=stride)


@pytest.mark.parametrize("inherits", [1, "yes", None])
def test_whether_a_stage_inherits_is_yes_or_no(inherits):
    sizes = {"resolution": 4, "steps": 1, "radius": 1, "stride": 1, "patch": None, "halo": 0}
    with pytest.raises(ValueError, match=f"inherits={inherits!r}"):
        StageEntry(**sizes, parts=1, inherits=inherits)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no bundle"):
        Bundle.open(tmp_path)


def test_a_precision_that_is_not_there_is_named():
    with pytest.raises(BackendError, match="int8"):
        Bundle.open().stage_path(0, "int8")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reduction", "median"),
        ("intensity", "min-max"),
        ("intensity_range", [0, 1]),
        ("working_spacing_mm", 2.0),
        ("op_version", 2),
    ],
)
def test_what_this_runtime_does_not_do_is_refused(copy, field, value):
    fields = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(fields | {field: value}))
    with pytest.raises(BundleError, match=field):
        Bundle.open(copy)


def test_a_fixed_range_survives_the_file_and_needs_its_rule():
    manifest = Bundle.open().manifest
    fixed = dataclasses.replace(manifest, intensity=FIXED_RANGE, intensity_range=(-4e-3, 16e3))
    assert Manifest.from_json(fixed.to_json()) == fixed
    with pytest.raises(BundleError, match="does not go with the rule"):
        Manifest.from_json(dataclasses.replace(fixed, intensity_range=None).to_json())


@pytest.mark.parametrize(
    "wrong",
    [[1, 1], [2, 1], [0], [0, "x"], [0, float("nan")], 3, "12", [0, 10**400], [False, True]],
    ids=lambda wrong: str(wrong)[:12],
)
def test_a_range_that_is_none_is_refused(wrong):
    manifest = Bundle.open().manifest
    fixed = dataclasses.replace(manifest, intensity=FIXED_RANGE, intensity_range=wrong)
    with pytest.raises(BundleError, match=MANIFEST):
        Manifest.from_json(fixed.to_json())


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": "intensity"},
        {"steps": -1},
        {"steps": 2.5},
        {"steps": 10**9},
        {"regularisation": float("inf")},
        {"regularisation": 10**400},
        {"rate": 1e300},
        {"rate": "0.2"},
        {"rate": 0},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_refinement_that_is_none_is_refused(copy, wrong):
    fields = json.loads((copy / MANIFEST).read_text())
    fields["refinement"] |= wrong
    (copy / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.open(copy)


def test_a_bundle_from_before_there_was_refinement_is_read(copy):
    fields = json.loads((copy / MANIFEST).read_text())
    del fields["refinement"]
    (copy / MANIFEST).write_text(json.dumps(fields))
    assert Bundle.open(copy).manifest.refinement is None


def test_a_graph_the_manifest_does_not_list_is_not_given_out(copy):
    (copy / "other.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"other\.onnx"):
        Bundle.open(copy).graph_path("other.onnx")


@pytest.mark.parametrize(
    "wrong",
    [
        {"stages": []},
        {"multiple": 3},  # the first stage halves twice
        {"multiple": 0},
        {"multiple": True},
        {"multiple": 4 * 10**9},
        {"files": {"compose.onnx": "0" * 63}},
        {"files": {"compose.onnx": None}},
        {"files": []},
        {"name": "base\x1b[2J"},
        {"weights": {"licence": ["MIT"]}},
        {"weights": "MIT"},
    ],
    ids=str,
)
def test_what_nothing_could_be_done_with_is_refused(wrong):
    fields = json.loads(Bundle.open().manifest.to_json())
    with pytest.raises(BundleError, match=MANIFEST):
        Manifest.from_json(json.dumps(fields | wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"radius": 10**9},
        {"resolution": True},
        {"halo": -1},
        {"patch": 24, "halo": 12},
        {"patch": 0},
        {"patch": 24, "parts": 2},
        {"parts": 2, "halo": 4},
    ],
    ids=str,
)
def test_a_stage_that_cuts_nothing_sensible_is_refused(wrong):
    sizes = {"resolution": 1, "steps": 1, "radius": 1, "inherits": True, "patch": None, "halo": 0}
    with pytest.raises(ValueError, match="a stage of"):
        StageEntry(**sizes | {"parts": 1, "stride": 1} | wrong)
