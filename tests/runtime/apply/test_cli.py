import json
import signal

import numpy as np
import pytest
from typer.testing import CliRunner

from rwcnet_runtime.apply.cli import apply_app


def call(*arguments):
    return CliRunner().invoke(apply_app, [str(argument) for argument in arguments])


@pytest.fixture
def shift(make_grid, save_field):
    grid = make_grid("LPS")
    return save_field(grid, np.broadcast_to([5.0, -4.0, 3.0], (*grid.shape, 3)))


@pytest.fixture
def points(tmp_path):
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n500,2,3\n")
    return tmp_path / "points.csv"


def test_what_was_done_is_printed_and_recorded(tmp_path, shift, points):
    out = tmp_path / "new" / "out.csv"
    result = call(
        points, "-t", shift, "-t", f"[{shift},1]", "-t", shift,
        "--from", "moving", "--to", "fixed", "--frame", "LPS", "-o", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "2 points (LPS mm)" in result.stdout
    assert "from moving to fixed" in result.stdout
    assert f"wrote {out}" in result.stdout
    assert result.stderr.count("\n") == 1
    assert "1 of 2 points lie outside of a displacement field" in result.stderr
    assert out.read_text().splitlines()[1] == "6.000000,-2.000000,0.000000"
    record = json.loads((tmp_path / "new" / "out.csv.json").read_text())
    assert record["transforms"][1] == {"file": str(shift), "inverted": True}
    assert record["outside"] == 1
    assert record["warnings"] == [result.stderr.removeprefix("Warning: ").strip()]
    assert {path.name for path in out.parent.iterdir()} == {"out.csv", "out.csv.json"}


def test_nothing_is_overwritten_unless_asked_for(tmp_path, shift, points):
    out = tmp_path / "out.csv"
    options = ["-t", shift, "--to", "fixed", "--frame", "RAS", "-o", out]
    out.write_text("precious")
    refused = call(points, *options)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1
    assert "--overwrite" in refused.stderr
    assert out.read_text() == "precious"
    assert call(points, *options, "--overwrite").exit_code == 0
    assert out.read_text().startswith("x,y,z\n")


def test_no_input_is_replaced(shift, points):
    result = call(
        points, "-t", shift, "--to", "fixed", "--frame", "RAS", "-o", points, "--overwrite"
    )
    assert result.exit_code == 2
    assert "would be replaced by a result" in result.stderr
    folder, field = shift.parent / "registration", shift.parent / "registration/displacement.nii.gz"
    folder.mkdir()
    shift.rename(field)
    result = call(field, "-t", folder, "-o", field, "--overwrite")
    assert result.exit_code == 2
    assert "would be replaced by a result" in result.stderr


def test_a_failure_leaves_what_was_there(tmp_path, shift):
    (tmp_path / "bad.csv").write_text("x,y,z\n1,2,oops\n")
    out = tmp_path / "out.csv"
    out.write_text("precious")
    before = sorted(tmp_path.iterdir())
    result = call(
        tmp_path / "bad.csv", "-t", shift, "--to", "fixed", "--frame", "RAS", "-o", out,
        "--overwrite",
    )  # fmt: skip
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert out.read_text() == "precious"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_while_it_writes(tmp_path, shift, points, monkeypatch, number, code):
    def stop(*_):
        signal.raise_signal(number)

    # What a fix forgets must not end the tests.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        monkeypatch.setattr("rwcnet_runtime.apply.files._report", stop)
        out = tmp_path / "out"
        result = call(points, "-t", shift, "--to", "fixed", "--frame", "RAS", "-o", out / "out.csv")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == code
    assert result.stderr == "Error: interrupted, and no file is half written\n"
    assert not out.exists()


def test_an_image_says_what_it_was_taken_for(tmp_path, shift, make_grid, save_phantom):
    source = save_phantom(make_grid("RAS"))
    result = call(source, "-t", shift, "-o", tmp_path / "out.nii.gz")
    assert result.exit_code == 0, result.stderr
    assert "image (its values are no whole numbers), interpolation linear" in result.stdout
    assert f"grid of {shift}: 36 x 32 x 28 voxels" in result.stdout


@pytest.mark.parametrize("suffix", [".nii.gz", ".csv", ".trk", ".pdf"])
def test_a_missing_input_is_one_sentence(tmp_path, shift, suffix):
    target = tmp_path / f"out{suffix}"
    result = call(tmp_path / f"missing{suffix}", "-t", shift, "--to", "fixed", "-o", target)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"missing{suffix}" in result.stderr
