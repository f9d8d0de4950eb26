import pytest

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation import Case, read_cases


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.nii", "b.nii", "a.fcsv", "b.fcsv", "a.vtk", "b.vtk"):
        (folder / name).touch()
    return folder


def write(tmp_path, *lines):
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_may_be_missing_or_empty(tmp_path, data):
    path = write(tmp_path, "moving,case,fixed,fixed_labels", "b.nii, one ,a.nii,")
    assert read_cases(path, data) == [Case("one", data / "a.nii", data / "b.nii")]


def test_every_column_reaches_the_case(tmp_path, data):
    (tmp_path / "start.tfm").touch()
    path = write(
        tmp_path,
        "case,fixed,moving,fixed_labels,moving_labels,fixed_points,moving_points,points_frame,"
        "points_left_out,fixed_mask,moving_mask,initial_transform",
        "one,a.nii,b.nii,a.nii,b.nii,a.vtk,b.vtk,LPS,29 30,a.nii,b.nii,start.tfm",
    )
    a, b = data / "a.nii", data / "b.nii"
    # The transform is beside the CSV and not in the data folder.
    points = (data / "a.vtk", data / "b.vtk", "LPS", ("29", "30"))
    assert read_cases(path, data) == [
        Case("one", a, b, a, b, *points, a, b, tmp_path / "start.tfm")
    ]


def test_paths_start_from_the_folder_of_the_csv_by_default(data):
    path = write(data, "case,fixed,moving", "one,a.nii,b.nii")
    assert read_cases(path)[0].fixed == data / "a.nii"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["case,fixed,moving,label", "one,a.nii,b.nii,"], "unknown column 'label'"),
        (["case,fixed", "one,a.nii"], "no column 'moving'"),
        (["case,fixed,moving,moving", "one,a.nii,b.nii,b.nii"], "a column twice"),
        (["case,fixed,moving"], "no row"),
        ([], "no column 'case'"),
        (["case,fixed,moving", "one,a.nii,b.nii", "two,a.nii"], "row 3 has not the 3 fields"),
        (["case,fixed,moving", "one,a.nii,b.nii", "one,a.nii,b.nii"], "row 3, column case"),
        (["case,fixed,moving", "../one,a.nii,b.nii"], "row 2, column case"),
        (["case,fixed,moving", "one,a.nii,gone.nii"], "row 2, column moving: .*gone.nii"),
        (["case,fixed,moving", "one,a.nii,"], "row 2, column moving: it is empty"),
        (
            ["case,fixed,moving,fixed_labels", "one,a.nii,b.nii,a.nii"],
            "row 2, column moving_labels",
        ),
        (
            ["case,fixed,moving,fixed_points,moving_points", "one,a.nii,b.nii,a.fcsv,b.vtk"],
            "row 2, column points_frame: it is empty and b.vtk",
        ),
        (
            ["case,fixed,moving,points_frame", "one,a.nii,b.nii,ITK"],
            "row 2, column points_frame: 'ITK'",
        ),
        (
            ["case,fixed,moving,initial_transform", "one,a.nii,b.nii,a.nii"],
            "row 2, column initial_transform",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_row_and_column(tmp_path, data, lines, says):
    path = write(tmp_path, *lines)
    with pytest.raises(InputError, match=rf"{path}.*{says}"):
        read_cases(path, data)


def test_a_file_that_is_no_csv_is_refused(tmp_path):
    (tmp_path / "cases.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=rf"{tmp_path / 'cases.csv'} cannot be read"):
        read_cases(tmp_path / "cases.csv")
