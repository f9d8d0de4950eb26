"""Whatever a manifest holds: it is read, or refused in one sentence and with bounded memory."""

import copy
import hashlib
import json
import os
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rwcnet_runtime.bundle import MANIFEST, Bundle, Manifest
from rwcnet_runtime.cli import infer_app
from rwcnet_runtime.errors import BundleError
from rwcnet_runtime.manifest_checks import LARGEST_BYTES
from rwcnet_runtime.patches import lay_out

TEXT = (Bundle.open().folder / MANIFEST).read_text()
FIELDS = json.loads(TEXT)
fuzz = settings(max_examples=250, deadline=None, derandomize=True, database=None)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 400),
    st.sampled_from([10**9, 10**30, 10**400, -(10**400), 2**63]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["../x.onnx", "/etc/passwd", "fp32/stage1.onnx", "a\x00b", "\x1b[31m", "\ud800"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


def _places(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        if isinstance(child, (dict, list)):
            yield from _places(child, (*path, key))
        else:
            yield (*path, key)


PLACES = list(_places(FIELDS))


def _read(text):
    """Read a manifest or see it refused; what was read can be worked with."""
    try:
        manifest = Manifest.from_json(text)
    except BundleError as error:
        said = str(error)
        assert said.isprintable()  # one line, nothing that a terminal obeys
        assert len(said) < 600
        return None
    for edge in (manifest.multiple, 3 * manifest.multiple):
        for stage in manifest.stages:
            assert edge % stage.resolution == 0
            patches = lay_out((edge // stage.resolution,) * 3, stage.patch, stage.halo, stage.parts)
            assert patches
    return manifest


@fuzz
@given(st.sampled_from(PLACES), values)
def test_any_value_anywhere(path, value):
    fields = copy.deepcopy(FIELDS)
    if not path:
        fields = value
    else:
        parent = fields
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = value
    _read(json.dumps(fields))


@pytest.mark.parametrize("path", [path for path in PLACES if path], ids=str)
def test_a_missing_key_is_refused_but_for_what_may_be_missing(path):
    fields = copy.deepcopy(FIELDS)
    parent = fields
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    # A stage, a graph that nobody asked for yet, what weights are.
    may_be = {("stages",), ("weights",), ("files",)}
    optional = path == ("refinement",) or path[:-1] in may_be
    assert (_read(json.dumps(fields)) is not None) == optional


def test_damaged_bytes():
    """A thousand manifests with bytes changed, cut out, or doubled."""
    random_ = random.Random(0)
    read = 0
    for _ in range(1000):
        data = bytearray(TEXT.encode())
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(len(data))
            kind = random_.randrange(4)
            if kind == 0:
                data[at] = random_.randrange(256)
            elif kind == 1:
                del data[at : at + random_.randrange(1, 200)]
            elif kind == 2:
                data[at:at] = data[at : at + random_.randrange(1, 200)]
            else:
                data[at] ^= 1 << random_.randrange(8)
        read += _read(bytes(data)) is not None
    assert read < 500  # where a letter of a description changed


@pytest.fixture
def bundle(tmp_path):
    """A copy of the shipped bundle, to be damaged."""
    return shutil.copytree(Bundle.open().folder, tmp_path / "bundle")


def _list(bundle, name, digest):
    files = FIELDS["files"] | {name: digest}
    (bundle / MANIFEST).write_text(json.dumps(FIELDS | {"files": files}))


@pytest.mark.parametrize(
    "name",
    [
        "../outside.onnx",
        "fp32/../../outside.onnx",
        "fp32/./stage1.onnx",
        "fp32//stage1.onnx",
        "..\\outside.onnx",
        "C:\\outside.onnx",
        "C:outside.onnx",
        "~/outside.onnx",
        "out\x00side.onnx",
        "outside.onnx\n",
        "outside.onnx/",
        ".outside.onnx",
        "outside.pkl",
        "оutside.onnx",  # its first letter is Cyrillic
        "\ud800.onnx",
        "",
        "a" * 300 + ".onnx",
        "FP32/Stage1.onnx",  # the same file where case does not count
    ],
    ids=ascii,
)
def test_a_name_that_could_be_another_file_is_refused(bundle, name):
    (bundle.parent / "outside.onnx").write_bytes(b"x")
    _list(bundle, name, hashlib.sha256(b"x").hexdigest())
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.open(bundle)


def test_an_absolute_path_is_refused(bundle):
    outside = bundle.parent / "outside.onnx"
    outside.write_bytes(b"x")
    _list(bundle, str(outside), hashlib.sha256(b"x").hexdigest())
    with pytest.raises(BundleError, match="is no name of a graph inside a bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_link_out_of_the_bundle_is_refused_and_one_inside_is_not(bundle, is_folder):
    name, target = ("linked/x.onnx", "linked") if is_folder else ("x.onnx", "x.onnx")
    outside = bundle.parent / "outside"
    outside.mkdir()
    (outside / "x.onnx").write_bytes(b"x")
    (bundle / target).symlink_to(outside if is_folder else outside / "x.onnx")
    _list(bundle, name, hashlib.sha256(b"x").hexdigest())
    with pytest.raises(BundleError, match="a link that leads out of the bundle"):
        Bundle.open(bundle)
    (bundle / target).unlink()
    (bundle / "inner").mkdir()
    (bundle / "inner" / "x.onnx").write_bytes(b"x")
    (bundle / target).symlink_to("inner" if is_folder else "inner/x.onnx")
    assert name in Bundle.open(bundle).manifest.files


def test_a_bundle_that_is_reached_by_a_link_is_read(bundle):
    (bundle.parent / "link").symlink_to(bundle)
    assert Bundle.open(bundle.parent / "link").sha256 == Bundle.open().sha256


def test_a_manifest_of_ten_gigabytes_is_not_read(bundle):
    with (bundle / MANIFEST).open("ab") as file:
        file.truncate(10 * 2**30)  # sparse: it takes no room on the disk
    with pytest.raises(BundleError, match="more than 1 MiB"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "text",
    [
        "[" * (LARGEST_BYTES // 2),
        '{"a":' * (LARGEST_BYTES // 8),
        '{"schema_version": ' + "9" * 5000 + "}",
        '{"schema_version": 1e999}',
        '{"schema_version": NaN}',
        "\ufeff" + TEXT,
        TEXT + "x",
        TEXT[:-3],
    ],
    ids=lambda text: text[:20],
)
def test_a_text_that_parsers_dislike_is_refused(text):
    assert _read(text) is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_an_encoding_that_is_not_utf_8(encoding):
    """JSON may be UTF-16 and UTF-32; what is none of the three is refused."""
    text = TEXT.replace("MIT", "MIT é")
    found = _read(text.encode(encoding))
    assert (found is None) == (encoding == "latin-1")


def test_a_fifo_or_a_folder_is_no_file(bundle):
    os.mkfifo(bundle / "x.onnx")
    _list(bundle, "x.onnx", "0" * 64)
    with pytest.raises(BundleError, match=r"x\.onnx is missing"):
        Bundle.open(bundle)
    (bundle / MANIFEST).unlink()
    os.mkfifo(bundle / MANIFEST)
    with pytest.raises(BundleError, match="no bundle"):
        Bundle.open(bundle)


def test_the_command_says_it_in_one_sentence_and_writes_nothing(bundle, tmp_path):
    _list(bundle, "../outside.onnx", "0" * 64)
    (tmp_path / "image.nii.gz").write_bytes(b"")
    images = [str(tmp_path / "image.nii.gz")] * 2
    result = CliRunner().invoke(
        infer_app, [*images, "-o", str(tmp_path / "out"), "--bundle", str(bundle)]
    )
    assert result.exit_code == 2
    assert "no name of a graph" in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
