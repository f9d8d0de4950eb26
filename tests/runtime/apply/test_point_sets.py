import csv

import nibabel as nib
import numpy as np
import pytest

from rwcnet_runtime.apply import Given
from rwcnet_runtime.apply.files import apply
from rwcnet_runtime.apply.point_sets import read_point_set
from rwcnet_runtime.apply.request import Request
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.landmarks import read_landmarks

LPS = np.array([-1, -1, 1])
FACES = np.array([[0, 1, 2], [2, 3, 0]], np.int32)
VTK_FACES = "POLYGONS 2 8\n3 0 1 2\n3 2 3 0\n"


def run(source, transform, target, **options):
    return apply(Request(source, target, [Given.parse(str(transform))], **options))


def write_csv(path, points, header="name,X,y,z,label"):
    rows = [f'"a, {n}",{x!r},{y!r},{z!r},L{n}' for n, (x, y, z) in enumerate(points.tolist())]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_vtk(path, points, *, binary, title="made by a test"):
    kind = "float" if binary else "double"
    start = f"# vtk DataFile Version 3.0\n{title}\n{'BINARY' if binary else 'ASCII'}\n"
    start += f"DATASET POLYDATA\nPOINTS {len(points)} {kind}\n"
    if binary:
        block = points.astype(">f4").tobytes()
    else:
        block = " ".join(map(repr, points.ravel().tolist())).encode()
    path.write_bytes(start.encode() + block + b"\n" + VTK_FACES.encode())
    return path


def write_gifti(path, points, meta=None):
    arrays = [
        nib.gifti.GiftiDataArray(points.astype(np.float32), "NIFTI_INTENT_POINTSET", meta=meta),
        nib.gifti.GiftiDataArray(FACES, "NIFTI_INTENT_TRIANGLE"),
    ]
    nib.save(nib.GiftiImage(darrays=arrays), path)
    return path


@pytest.fixture
def fixed_points(fixed_grid, points_inside):
    return points_inside(fixed_grid, 20)


@pytest.fixture
def moving_points(fixed_points, field_path, by_itk):
    """The partners of `fixed_points`, as SimpleITK finds them."""
    return by_itk(field_path, fixed_points)


def test_points_of_the_fixed_image_go_with_the_field(
    fixed_points, moving_points, field_path, tmp_path
):
    source = write_csv(tmp_path / "fixed.csv", fixed_points)
    out = tmp_path / "out.csv"
    report = run(source, field_path, out, origin="fixed", frame="RAS")
    assert (report["from"], report["to"], report["frame"]) == ("fixed", "moving", "RAS")
    np.testing.assert_allclose(
        read_point_set(out, "RAS").points,
        moving_points,
        rtol=0,
        atol=2e-3,  # mm
    )


def test_points_of_the_moving_image_go_against_the_field(
    fixed_points, moving_points, field_path, tmp_path
):
    source = write_csv(tmp_path / "moving.csv", moving_points * LPS)
    out = tmp_path / "out.csv"
    report = run(source, field_path, out, destination="fixed", frame="LPS")
    assert report["residual_mm"] <= 0.01
    assert report["unsolved"] == report["outside"] == 0
    found = read_point_set(out, "LPS").points
    np.testing.assert_allclose(found, fixed_points, rtol=0, atol=0.02)  # mm


def test_an_image_and_its_points_go_to_the_same_place(
    make_grid, save_field, save_phantom, tmp_path
):
    """The direction is right: a bright spot lands where its coordinates land."""
    grid = make_grid("LAS")
    path = save_field(grid, np.broadcast_to([8.0, -6.0, 4.0], (*grid.shape, 3)))
    spot = np.zeros(grid.shape, np.float32)
    spot[20, 18, 12] = 1
    image = nib.Nifti1Image(spot, grid.affine)
    nib.save(image, tmp_path / "spot.nii.gz")
    where = grid.world_from_voxel([[20, 18, 12]])
    for origin in ("moving", "fixed"):
        source = write_csv(tmp_path / "spot.csv", where)
        points, picture = tmp_path / f"{origin}.csv", tmp_path / f"{origin}.nii.gz"
        run(source, path, points, origin=origin, frame="RAS")
        run(
            tmp_path / "spot.nii.gz",
            path,
            picture,
            origin=origin,
            reference=picture.with_name("spot.nii.gz"),
        )
        brightest = np.unravel_index(nib.load(picture).get_fdata().argmax(), grid.shape)
        found = grid.voxel_from_world(read_point_set(points, "RAS").points)[0]
        np.testing.assert_allclose(found, brightest, rtol=0, atol=0.01)  # voxel
        assert np.abs(found - [20, 18, 12]).max() > 1.9  # voxel


def test_other_columns_of_a_csv_stay(make_grid, save_field, tmp_path):
    grid = make_grid("RAS")
    shift = save_field(grid, np.broadcast_to([1.0, 2.0, 3.0], (*grid.shape, 3)))
    source = write_csv(tmp_path / "in.csv", np.array([[1.5, 2, 3], [4, 5, 6]]))
    run(source, shift, tmp_path / "out.csv", origin="fixed", frame="RAS")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "X", "y", "z", "label"]
    assert rows[1] == ["a, 0", "2.500000", "4.000000", "6.000000", "L0"]
    assert rows[2] == ["a, 1", "5.000000", "7.000000", "9.000000", "L1"]


@pytest.mark.parametrize(("system", "sign"), [("0", 1), ("LPS", LPS)])
def test_fiducials_of_slicer_stay_in_their_frame(make_grid, save_field, tmp_path, system, sign):
    grid = make_grid("RAS")
    shift = save_field(grid, np.broadcast_to([1.0, 2.0, 3.0], (*grid.shape, 3)))
    text = (
        f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        'F_1,1.5,-2,3,0,0,0,1,1,1,0,AC,"front, one",\n'
    )
    (tmp_path / "in.fcsv").write_text(text)
    run(tmp_path / "in.fcsv", shift, tmp_path / "out.fcsv", origin="fixed")
    before, after = (read_landmarks(tmp_path / f"{n}.fcsv", None, grid) for n in ("in", "out"))
    np.testing.assert_allclose(after.points - before.points, [[1, 2, 3]], rtol=0, atol=1e-5)  # mm
    assert after.labels == ("AC",)
    old, new = text.splitlines(), (tmp_path / "out.fcsv").read_text().splitlines()
    assert new[:3] == old[:3]
    assert new[3].endswith('AC,"front, one",')
    with pytest.raises(InputError, match="leave --frame out"):
        run(
            tmp_path / "in.fcsv",
            shift,
            tmp_path / "b.fcsv",
            origin="fixed",
            frame="LPS" if system == "0" else "RAS",
        )


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("title", "options", "sign"),
    [
        ("made by a test", {"frame": "RAS"}, 1),
        ("made by a test", {"frame": "LPS"}, LPS),
        ("3D Slicer output. SPACE=LPS", {}, LPS),
    ],
)
def test_a_vtk_surface_keeps_all_but_its_vertices(
    make_grid, save_field, tmp_path, binary, title, options, sign
):
    grid = make_grid("RAS")
    shift = save_field(grid, np.broadcast_to([1.0, 2.0, 3.0], (*grid.shape, 3)))
    points = np.random.default_rng(0).normal(0, 10, (4, 3))
    source = write_vtk(tmp_path / "in.vtk", points, binary=binary, title=title)
    run(source, shift, tmp_path / "out.vtk", origin="fixed", **options)
    expected = write_vtk(
        tmp_path / "expected.vtk", points + sign * np.array([1, 2, 3]), binary=binary, title=title
    )
    found, expected = (path.read_bytes() for path in (tmp_path / "out.vtk", expected))
    assert found.endswith(b"\n" + VTK_FACES.encode())
    assert found.split(b"POINTS")[0] == expected.split(b"POINTS")[0]
    moved = read_point_set(tmp_path / "out.vtk", options.get("frame")).points
    np.testing.assert_allclose(moved, points * sign + [1, 2, 3], rtol=0, atol=1e-5)  # mm


def test_a_gifti_surface_keeps_its_faces(make_grid, save_field, tmp_path):
    grid = make_grid("RAS")
    shift = save_field(grid, np.broadcast_to([1.0, 2.0, 3.0], (*grid.shape, 3)))
    points = np.random.default_rng(0).normal(0, 10, (4, 3))
    source = write_gifti(tmp_path / "in.surf.gii", points)
    run(source, shift, tmp_path / "out.surf.gii", destination="moving")
    moved, faces = nib.load(tmp_path / "out.surf.gii").agg_data()
    np.testing.assert_allclose(
        moved - points, np.broadcast_to([1, 2, 3], (4, 3)), rtol=0, atol=1e-5
    )  # mm
    np.testing.assert_array_equal(faces, FACES)


def test_freesurfers_own_frame_is_not_taken_for_the_world(make_grid, save_field, tmp_path):
    grid = make_grid("RAS")
    shift = save_field(grid, np.broadcast_to([1.0, 2.0, 3.0], (*grid.shape, 3)))
    meta = nib.gifti.GiftiMetaData(VolGeomC_R="1.5", VolGeomC_A="-20", VolGeomC_S="3")
    source = write_gifti(tmp_path / "in.gii", np.zeros((4, 3)), meta)
    with pytest.raises(InputError, match="mris_convert --to-scanner"):
        run(source, shift, tmp_path / "out.gii", origin="fixed")
    run(source, shift, tmp_path / "out.gii", origin="fixed", frame="RAS")
    assert "VolGeomC_R" not in nib.load(tmp_path / "out.gii").darrays[0].meta


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "1,2,3\n", "no columns x, y and z"),
        ("a.csv", "", "no columns x, y and z"),
        ("a.csv", "x,y,z\n", "holds no points"),
        ("a.csv", "x,y,z\n1,2\n", "a row without numbers"),
        ("a.csv", "x,y,z\n1,2,nan\n", "not finite"),
        ("a.csv", "x,y,z\n1,2,3\n", "give --frame RAS or --frame LPS"),
        ("a.fcsv", "# CoordinateSystem = IJK\n", "coordinate system IJK"),
        ("a.vtk", "solid\n", "no legacy VTK file"),
        ("a.vtk", "# vtk DataFile\n\nASCII\nPOINTS 2 float\n1 2 3 4 5", "ends before them"),
        ("a.vtk", "# vtk DataFile\n\nBINARY\nPOINTS 2 float\n123456", "ends before them"),
        ("a.vtk", "# vtk DataFile\n\nASCII\nPOINTS 1 float\n1 2 x", "no numbers"),
        ("a.gii", "<GIFTI>", "no GIFTI file"),
    ],
)
def test_files_without_usable_points_are_refused(
    make_grid, save_field, tmp_path, name, content, says
):
    grid = make_grid("RAS")
    shift = save_field(grid, np.zeros((*grid.shape, 3)))
    (tmp_path / name).write_text(content)
    target = tmp_path / f"out{name[1:]}"
    with pytest.raises(InputError, match=says):
        run(tmp_path / name, shift, target, origin="fixed")
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "content", "frame", "says"),
    [
        ("a.csv", b"x,y,z\n1,2,3\n", "lps", "is 'lps'; give one of RAS, LPS"),
        ("a.txt", b"1 2 3\n", "RAS", r"a\.txt ends in none of \.csv, \.fcsv, \.vtk, \.gii"),
        ("a.csv", "x,y,z,name\n1,2,3,Kr\xfcmmung\n".encode("latin-1"), "RAS", "no text in UTF-8"),
        ("a.fcsv", "0,1,2,3,Kr\xfcmmung\n".encode("latin-1"), "RAS", "no text in UTF-8"),
    ],
)
def test_what_is_read_by_itself_is_checked_too(tmp_path, name, content, frame, says):
    """As rwcnet-infer --points does, without a `Request`."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_point_set(tmp_path / name, frame)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "points go the other way than images"),
        ({"origin": "fixed", "interpolation": "nearest"}, "are about images"),
        ({"origin": "fixed", "labels": True}, "are about images"),
        ({"origin": "fixed", "frame": "voxel"}, "RAS, LPS"),
    ],
)
def test_requests_for_points_that_make_no_sense_are_refused(tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        run(tmp_path / "a.csv", "field.nii.gz", tmp_path / "b.csv", **options)


def test_the_format_stays(tmp_path):
    with pytest.raises(InputError, match=r"does not end in \.csv"):
        run(tmp_path / "a.csv", "field.nii.gz", tmp_path / "b.fcsv", origin="fixed")
