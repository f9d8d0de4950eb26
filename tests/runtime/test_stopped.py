"""A run that is stopped, killed or out of disk leaves what was there, and nothing of its own."""

import os
import resource
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from rwcnet_runtime.cli import infer_app
from rwcnet_runtime.writing import all_or_none

OLD = {"warped.nii.gz": "old", "displacement.nii.gz": "old", "registration.json": "{}"}
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
# Says when the results are half written, then waits to be stopped.
HALF_WAY = """
import signal, time
import rwcnet_runtime.outputs as outputs
signal.signal(signal.SIGINT, signal.default_int_handler)

def stuck(path, *rest):
    path.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)

outputs.write_displacement = stuck
"""
START = "from rwcnet_runtime.entry import infer; infer()"
QUICK = ("--backend", "onnxruntime", "--threads", "1", "--refine", "0")


@pytest.fixture
def image(tmp_path):
    data = np.random.default_rng(0).random((24, 20, 28)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "image.nii.gz")
    return str(tmp_path / "image.nii.gz")


@pytest.fixture(params=["into old results", "into a new folder"])
def out(request, tmp_path):
    """An output folder, and a function that checks that it is as it was."""
    folder = tmp_path / "out" / "folder"
    if request.param == "into old results":
        folder.mkdir(parents=True)
        for name, text in OLD.items():
            (folder / name).write_text(text)
    return folder


def is_untouched(folder):
    if not folder.parent.exists():
        return [path.name for path in folder.parents[1].iterdir()] == ["image.nii.gz"]
    return {path.name: path.read_text() for path in folder.iterdir()} == OLD


def arguments(image, out):
    return [image, image, *QUICK, "--overwrite", "-o", str(out)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("where", ["while it is read", "while it is written"])
def test_interrupted_in_the_work(image, out, monkeypatch, number, code, where):
    def stop(*_):
        signal.raise_signal(number)

    place = {
        "while it is read": "rwcnet_runtime.registrar.as_volume",
        "while it is written": "rwcnet_runtime.outputs.write_displacement",
    }[where]
    monkeypatch.setattr(place, stop)
    result = CliRunner().invoke(infer_app, arguments(image, out))
    assert result.exit_code == code
    assert result.stderr.startswith("Error: interrupted, and ")
    assert result.stderr.count("\n") == 1
    assert is_untouched(out)


def test_interrupted_while_files_are_moved(tmp_path, monkeypatch):
    """The move takes no time, and is done first: what is there is all new."""
    replace = type(tmp_path).replace

    def interrupted(path, place):
        signal.raise_signal(signal.SIGINT)
        return replace(path, place)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(type(tmp_path), "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), all_or_none(tmp_path, ["a", "b"]) as new:  # noqa: PT012
        (new / "a").write_text("new")
        (new / "b").write_text("new")
    signal.signal(signal.SIGINT, before)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_full_disk_is_said(image, out):
    """A limit on the size of files fails a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        result = CliRunner().invoke(infer_app, arguments(image, out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert (
        f"{out / 'displacement.nii.gz'} could not be written (File too large); choose"
        in result.stderr
    )
    assert is_untouched(out)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [*SIGNALS, (signal.SIGKILL, -9)])
def test_a_real_process_stopped_while_it_writes(image, out, number, code):
    with subprocess.Popen(
        [sys.executable, "-c", HALF_WAY + START, *arguments(image, out)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "half\n"
        time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    if number == signal.SIGKILL:  # which nobody can clean up after, but the results are the old
        for path in out.parents[1].rglob(".rwcnet-*/*"):
            path.unlink()
        for path in [*out.parents[1].rglob(".rwcnet-*")]:
            path.rmdir()
    else:
        assert said == "Error: interrupted, and no file is half written\n"
    assert is_untouched(out)
