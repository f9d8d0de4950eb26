import numpy as np
import pytest

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.landmarks import Landmarks, paired, read_landmarks

FCSV = """# Markups fiducial file version = 4.6
# CoordinateSystem = {system}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
F_1,1.5,-2,3,0,0,0,1,1,1,0,AC,"front, one",
F_2,4,5,-6,0,0,0,1,1,1,0,PC,,
"""
VTK = """# vtk DataFile Version 3.0
vtk output
ASCII
DATASET POLYDATA
POINTS 2 float
1.5 -2 3 4
5 -6
VERTICES 1 2
1 0
"""
POINTS = np.array([[1.5, -2, 3], [4, 5, -6]])
LPS = (-1, -1, 1)


@pytest.fixture
def grid(make_grid):
    return make_grid("PSR")


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(("system", "sign"), [("0", 1), ("RAS", 1), ("1", LPS), ("LPS", LPS)])
def test_slicer_fiducials_are_read_in_the_frame_they_say(tmp_path, grid, system, sign):
    path = write(tmp_path, "a.fcsv", FCSV.format(system=system))
    found = read_landmarks(path, None, grid)
    np.testing.assert_array_equal(found.points, POINTS * sign)
    assert found.labels == ("AC", "PC")


def test_elastix_points_are_in_the_world_of_itk_and_indices_in_voxels(tmp_path, grid):
    rows = "2\n1.5 -2 3\n4 5 -6\n"
    world = read_landmarks(write(tmp_path, "a.txt", "point\n" + rows), "LPS", grid)
    np.testing.assert_array_equal(world.points, POINTS * LPS)
    assert world.labels is None
    voxels = read_landmarks(write(tmp_path, "b.txt", "index\n" + rows), None, grid)
    np.testing.assert_array_equal(voxels.points, grid.world_from_voxel(POINTS))


@pytest.mark.parametrize(("frame", "sign"), [("RAS", 1), ("LPS", LPS)])
def test_the_points_of_a_vtk_file_are_read(tmp_path, grid, frame, sign):
    found = read_landmarks(write(tmp_path, "a.vtk", VTK), frame, grid)
    np.testing.assert_array_equal(found.points, POINTS * sign)


def test_a_csv_may_have_a_header_and_labels(tmp_path, grid):
    text = "label,X,Y,Z,note\nAC,1.5,-2,3,\nPC,4,5,-6,old\n"
    found = read_landmarks(write(tmp_path, "a.csv", text), "RAS", grid)
    np.testing.assert_array_equal(found.points, POINTS)
    assert found.labels == ("AC", "PC")


def test_keypoints_of_learn2reg_are_voxels_of_the_file(tmp_path, grid):
    text = "59.00000,74.00000,88.00000\n138.00000,152.00000,59.00000\n"
    found = read_landmarks(write(tmp_path, "a.csv", text), "voxel", grid)
    expected = grid.world_from_voxel([[59, 74, 88], [138, 152, 59]])
    np.testing.assert_array_equal(found.points, expected)
    assert found.labels is None


@pytest.mark.parametrize(
    ("name", "text", "frame", "says"),
    [
        ("a.fcsv", FCSV.format(system="2"), None, "coordinate system 2"),
        ("a.fcsv", FCSV.format(system="0"), "LPS", "points are RAS, the cases file says LPS"),
        ("a.fcsv", FCSV.format(system="0").replace("PC", "AC"), None, "a label twice"),
        ("a.fcsv", "F_1,1,2,3\n", None, "a row without"),
        ("a.txt", "points\n1\n1 2 3\n", None, "starts with 'points'"),
        ("a.txt", "point\n2\n1 2 3\n", None, "announces 2 points and holds 3"),
        ("a.txt", "point\nmany\n1 2 3\n", None, "cannot be read as landmarks"),
        ("a.txt", "", None, "starts with ''"),
        ("a.vtk", VTK.replace("ASCII", "BINARY"), "LPS", "no legacy ASCII"),
        ("a.vtk", VTK.split("VERTICES")[0].replace("S 2", "S 3"), "LPS", "announces 3 points"),
        ("a.vtk", VTK, None, "does not say the frame"),
        ("a.vtk", "ASCII POINTS", "LPS", "cannot be read as landmarks"),
        ("a.fcsv", "F_1,1,2,3,0,0,0,1,1,1,0,AC,,\n", None, "does not say the frame"),
        ("a.csv", "a,b,c\n1,2,3\n", "RAS", "cannot be read as landmarks"),
        ("a.csv", "1,2\n3,4\n", "RAS", "no list of finite points"),
        ("a.csv", "1,2,nan\n", "RAS", "no list of finite points"),
        ("a.csv", "x,y,z\n1,2\n", "RAS", "cannot be read as landmarks"),
        ("a.csv", "", "RAS", "no list of finite points"),
        ("a.mrk.json", "{}", "RAS", "ends in none of"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, grid, name, text, frame, says):
    path = write(tmp_path, name, text)
    with pytest.raises(InputError, match=f"{path} .*{says}"):
        read_landmarks(path, frame, grid)


def test_labels_match_before_rows_do():
    fixed = Landmarks(np.array([[1.0, 0, 0], [2, 0, 0], [3, 0, 0]]), ("a", "b", "c"))
    moving = Landmarks(np.array([[30.0, 0, 0], [10, 0, 0], [40, 0, 0]]), ("c", "a", "d"))
    one, other, labels = paired(fixed, moving)
    np.testing.assert_array_equal(one[:, 0], [1, 3])
    np.testing.assert_array_equal(other[:, 0], [10, 30])
    assert labels == ["a", "c"]
    assert paired(fixed, moving, left_out=("a",))[2] == ["c"]


def test_rows_match_where_a_side_has_no_labels():
    fixed = Landmarks(np.array([[1.0, 0, 0], [2, 0, 0]]), None)
    moving = Landmarks(np.array([[10.0, 0, 0], [20, 0, 0]]), ("b", "a"))
    one, other, labels = paired(fixed, moving)
    np.testing.assert_array_equal(other, 10 * one)
    assert labels == ["b", "a"]
    assert paired(fixed, Landmarks(moving.points, None), ("2",))[2] == ["1"]


def test_landmarks_without_partners_are_refused():
    one = Landmarks(np.zeros((2, 3)), ("a", "b"))
    with pytest.raises(InputError, match="2 fixed and 3 moving"):
        paired(one, Landmarks(np.zeros((3, 3)), None))
    with pytest.raises(InputError, match="No fixed landmark"):
        paired(one, Landmarks(np.zeros((2, 3)), ("c", "d")))
