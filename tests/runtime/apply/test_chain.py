import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.apply import Given, read_chain
from rwcnet_runtime.errors import InputError

LPS = np.array([-1, -1, 1])


def move(points, *texts):
    return read_chain([Given.parse(str(text)) for text in texts]).move(points)


def by_transform(transform, points):
    return np.array([transform.TransformPoint((p * LPS).tolist()) for p in points]) * LPS


@pytest.fixture
def affine_path(tmp_path, affine_transform):
    sitk.WriteTransform(affine_transform, tmp_path / "affine.tfm")
    return tmp_path / "affine.tfm"


def test_points_go_through_a_field_as_in_itk(fixed_grid, field_path, by_itk, points_inside):
    points = points_inside(fixed_grid)
    moved = move(points, field_path)
    np.testing.assert_allclose(moved.points, by_itk(field_path, points), rtol=0, atol=1e-3)  # mm
    assert np.abs(moved.points - points).max() > 5  # mm
    assert moved.covered.all()


def test_the_way_back_leads_to_where_points_came_from(fixed_grid, field_path, points_inside):
    points = points_inside(fixed_grid)
    there = move(points, field_path)
    back = read_chain([Given(field_path)]).inverse().move(there.points)
    np.testing.assert_allclose(back.points, points, rtol=0, atol=0.02)  # mm
    assert back.residual_mm.max() <= 0.01  # mm
    assert back.covered.all()
    same = move(there.points, f"[{field_path},1]")
    np.testing.assert_array_equal(same.points, back.points)


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat", ".h5"])
def test_linear_transforms_are_read_from_all_files_of_itk(tmp_path, affine_transform, suffix):
    sitk.WriteTransform(affine_transform, tmp_path / f"affine{suffix}")
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    moved = move(points, tmp_path / f"affine{suffix}").points
    expected = by_transform(affine_transform, points)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-5)  # mm
    back = move(moved, f"[{tmp_path / 'affine'}{suffix},1]").points
    np.testing.assert_allclose(back, points, rtol=0, atol=1e-9)  # mm


def test_the_first_transform_given_is_the_first_for_fixed_points(
    make_grid, save_field, affine_path, affine_transform
):
    grid = make_grid("RAS")
    shift = save_field(grid, np.broadcast_to([6.0, -3.0, 2.0], (*grid.shape, 3)))
    points = np.array([[1.0, 2.0, 3.0]])
    moved = move(points, shift, affine_path).points
    step = np.array([6, -3, 2])
    expected = by_transform(affine_transform, points + step)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-4)  # mm
    other = by_transform(affine_transform, points) + step
    assert np.abs(moved - other).max() > 0.3  # mm: the orders can be told apart
    # ITK's composites list the first one last.
    composite = sitk.CompositeTransform(
        [affine_transform, sitk.TranslationTransform(3, [-6, 3, 2])]
    )
    sitk.WriteTransform(composite, affine_path.with_name("both.h5"))
    at_once = move(points, affine_path.with_name("both.h5")).points
    np.testing.assert_allclose(at_once, expected, rtol=0, atol=1e-4)  # mm


def test_a_composite_with_a_field_is_taken_apart(
    fixed_path, field_path, affine_path, affine_transform, tmp_path, points_inside, fixed_grid
):
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(field_path, sitk.sitkVectorFloat64))
    composite = sitk.CompositeTransform([affine_transform, field])
    sitk.WriteTransform(composite, tmp_path / "composite.h5")
    points = points_inside(fixed_grid)
    chain = read_chain([Given(tmp_path / "composite.h5")])
    expected = move(points, field_path, affine_path).points
    np.testing.assert_allclose(chain.move(points).points, expected, rtol=0, atol=1e-3)  # mm
    back = chain.inverse().move(expected)
    np.testing.assert_allclose(back.points, points, rtol=0, atol=0.02)  # mm


def test_b_splines_are_applied_and_inverted(tmp_path):
    transform = sitk.BSplineTransformInitializer(
        sitk.Image([32, 32, 32], sitk.sitkFloat32), [4, 4, 4]
    )
    number = len(transform.GetParameters())
    transform.SetParameters(np.random.default_rng(0).normal(0, 1.5, number).tolist())
    sitk.WriteTransform(transform, tmp_path / "spline.tfm")
    points = (np.random.default_rng(1).random((50, 3)) * 20 + 5) * LPS
    chain = read_chain([Given(tmp_path / "spline.tfm")])
    moved = chain.move(points).points
    np.testing.assert_allclose(moved, by_transform(transform, points), rtol=0, atol=1e-9)  # mm
    assert np.abs(moved - points).max() > 1  # mm
    back = chain.inverse().move(moved)
    np.testing.assert_allclose(back.points, points, rtol=0, atol=0.02)  # mm


def test_a_field_keeps_its_border_value_beyond_its_grid(make_grid, save_field):
    grid = make_grid("LPS")
    displacement = np.zeros((*grid.shape, 3))
    displacement[..., 0] = np.arange(grid.shape[0])[:, None, None]  # mm
    path = save_field(grid, displacement)
    last = grid.shape[0] - 1
    voxels = np.array([[last, 5, 5], [last + 0.4, 5, 5], [last + 30, 5, 5], [-30, 5, 5]])
    points = grid.world_from_voxel(voxels)
    moved = move(points, path)
    steps = moved.points - points
    np.testing.assert_allclose(steps[:, 0], [last, last, last, 0], rtol=0, atol=1e-4)  # mm
    np.testing.assert_array_equal(moved.covered, [True, True, False, False])


def test_half_a_turn_within_a_field_is_inverted(make_grid, save_field, points_inside):
    """Such a field, as of a patient lying the other way round, has no fixed-point iteration."""
    grid = make_grid("RAS")
    world = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
    turned = world * [-1, -1, 1] + 3 * np.sin(world / 15) + [4, 0, 0]
    path = save_field(grid, turned - world)
    points = points_inside(grid)
    back = move(move(points, path).points, f"[{path},1]")
    np.testing.assert_allclose(back.points, points, rtol=0, atol=0.02)  # mm


def test_tissue_squeezed_to_a_twelfth_is_inverted(make_grid, save_field, points_inside):
    """There the fixed-point iteration gains too little at a step."""
    grid = make_grid("RAS")
    world = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
    path = save_field(grid, 0.92 * 6 * np.sin(world / 6))
    points = points_inside(grid)
    there = move(points, path).points
    back = move(there, f"[{path},1]")
    assert back.residual_mm.max() <= 0.01  # mm
    # Where all is squeezed, 0.01 mm there is more here.
    np.testing.assert_allclose(back.points, points, rtol=0, atol=0.2)  # mm


def test_what_a_fold_hides_is_reported(make_grid, save_field):
    grid = make_grid("RAS")
    world = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
    squashed = world * [0, 1, 1]  # nothing comes from beside the plane x = 0
    path = save_field(grid, squashed - world)
    back = move(np.array([[8.0, 0, 0], [0.0, 0, 0]]), f"[{path},1]")
    assert back.residual_mm[0] > 5  # mm
    assert back.residual_mm[1] <= 0.01  # mm


def test_a_folder_of_a_registration_gives_its_displacement(
    fixed_grid, field_path, points_inside, tmp_path
):
    points = points_inside(fixed_grid, 5)
    by_folder, by_file = move(points, tmp_path), move(points, field_path)
    np.testing.assert_array_equal(by_folder.points, by_file.points)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.nii.gz", "does not exist"),
        ("nowhere.tfm", "is not a file"),
        ("folder", "without displacement.nii.gz"),
        ("phantom.nii.gz", "a displacement field of shape"),
        ("nan.nii.gz", "NaN or infinite displacements"),
        ("flat.tfm", "brings space onto a plane"),
    ],
)
def test_what_is_no_transform_is_refused(tmp_path, make_grid, save_phantom, save_field, name, says):
    grid = make_grid("RAS")
    (tmp_path / "folder").mkdir()
    save_phantom(grid)
    save_field(grid, np.full((*grid.shape, 3), np.nan), "nan.nii.gz")
    flat = sitk.AffineTransform(3)
    flat.SetMatrix([1, 0, 0, 0, 1, 0, 0, 0, 0])
    sitk.WriteTransform(flat, tmp_path / "flat.tfm")
    with pytest.raises(InputError, match=says):
        read_chain([Given(tmp_path / name)])


def test_brackets_of_ants_invert():
    assert Given.parse("[a b.mat, 1]") == Given(Given.parse("a b.mat").path, True)
    assert Given.parse("[a.mat,0]") == Given.parse("a.mat")
