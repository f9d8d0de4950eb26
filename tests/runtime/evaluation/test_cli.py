import csv
import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.evaluation.cli import eval_app
from rwcnet_runtime.volumes import read_volume, write_displacement


@pytest.fixture
def folder(tmp_path, save_phantom, make_grid):
    """Two cases of one pair, a field for each, labels."""
    grid = make_grid("RAS")
    path = save_phantom(grid, "image.nii.gz")
    labels = np.zeros(grid.shape, np.uint8)
    labels[5:20, 5:20, 5:20] = 1
    labels[22:30, 5:20, 5:20] = 12
    nib.save(nib.Nifti1Image(labels, grid.affine), tmp_path / "labels.nii.gz")
    (tmp_path / "fields").mkdir()
    volume = read_volume(path)
    for name in ("one", "two"):
        zero = np.zeros((*grid.shape, 3), np.float32)
        write_displacement(tmp_path / "fields" / f"{name}.nii.gz", zero, volume)
    row = "image.nii.gz,image.nii.gz,labels.nii.gz,labels.nii.gz"
    (tmp_path / "cases.csv").write_text(
        f"case,fixed,moving,fixed_labels,moving_labels\none,{row}\ntwo,{row}\n"
    )
    return tmp_path


def run(folder, *options):
    arguments = [str(folder / "cases.csv"), "-o", str(folder / "out"), *map(str, options)]
    return CliRunner().invoke(eval_app, arguments)


def test_fields_are_evaluated(folder):
    result = run(folder, "--fields", folder / "fields", "--labels", "1,3-12")
    assert result.exit_code == 0, result.output
    assert "1/2 one: Dice 1.000 -> 1.000" in result.stderr
    assert "| Dice after | 1.0000 | 1.0000 to 1.0000 | 1.0000 | 2 |" in result.stdout
    report = json.loads((folder / "out" / "summary.json").read_text())
    assert report["convention"] == "itk"
    assert list(report["cases"][0]["labels"]) == ["1", "12"]


def test_a_bundle_is_evaluated(folder):
    result = run(folder, "--labels", "12")
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "out" / "summary.json").read_text())
    assert report["bundle"]["name"] == "base"
    assert report["summary"]["measures"]["seconds"]["mean"] > 0
    assert list(report["cases"][0]["labels"]) == ["12"]


def test_a_failing_case_is_named_and_the_rest_goes_on(folder):
    (folder / "fields" / "one.nii.gz").write_text("no field")
    result = run(folder, "--fields", folder / "fields")
    assert result.exit_code == 1
    assert "1/2 one: failed: " in result.stderr
    assert "Traceback" not in result.output
    with (folder / "out" / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert "one.nii.gz" in rows[0]["error"]
    assert float(rows[1]["dice_after"]) == 1
    assert "- one: " in (folder / "out" / "summary.md").read_text()
    assert json.loads((folder / "out" / "summary.json").read_text())["summary"]["failed"] == 1


@pytest.mark.parametrize(
    ("name", "says"), [("gone.csv", "does not exist"), ("fields", "is a folder")]
)
def test_cases_that_are_no_file_get_one_sentence(folder, name, says):
    result = CliRunner().invoke(eval_app, [str(folder / name), "-o", str(folder / "out")])
    assert result.exit_code == 2
    assert result.stdout == ""
    wanted = "give the CSV file that lists the cases."
    assert result.stderr == f"Error: {folder / name} {says}; {wanted}\n"
    assert not (folder / "out").exists()


def test_results_never_replace_the_cases(folder):
    before = (folder / "cases.csv").read_text()
    arguments = [str(folder / "cases.csv"), "-o", str(folder), "--fields", str(folder / "fields")]
    result = CliRunner().invoke(eval_app, arguments)
    assert result.exit_code == 2
    assert "cases.csv would be replaced by a result" in result.stderr
    assert (folder / "cases.csv").read_text() == before


def test_the_bundle_is_opened_once(folder, monkeypatch):
    opened, really = [], Bundle.open
    monkeypatch.setattr(Bundle, "open", lambda place: opened.append(place) or really(place))
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert opened == [None]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fields", "gone"], "gone is not a folder"),
        (["--fields", ".", "--convention", "ants"], "'ants'"),
        (["--fields", ".", "--bundle", "."], "excludes --bundle"),
        (["--fields", ".", "--engine", "fp32"], "excludes --bundle, --engine"),
        (["--convention", "itk"], "--convention is about --fields"),
        (["--labels", "13-10"], "numbers and ranges"),
        (["--bundle", "gone"], "gone"),
        (["--engine", "fp64"], "fp64"),
        (["--labels", "1-"], "--labels is '1-'"),
        (["--data", "gone"], "row 2, column fixed"),
    ],
)
def test_bad_options_get_one_sentence_and_leave_nothing(folder, options, says):
    result = run(folder, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert not (folder / "out").exists()
