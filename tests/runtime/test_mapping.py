import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.volumes import read_volume, write_displacement

INTENSITY_RANGE = 120  # of the phantoms, about


def _world_points(grid):
    return grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))


def _between_voxels(points, grid):
    """Which points have voxels of the grid on all sides: there, interpolation is good to 1 %."""
    voxels = grid.voxel_from_world(points)
    return ((voxels >= 0) & (voxels <= np.array(grid.shape) - 1)).all(axis=-1)


def _smooth_flow(grid):
    """Some two voxels of motion, different along each axis and in each channel."""
    i, j, k = np.indices(grid.shape) / 9.0
    flow = [np.sin(j) + 0.5 * np.cos(k), 1.5 * np.cos(i + k), np.sin(i) - np.cos(j) + 0.3]
    return np.stack(flow).astype(np.float32)


def _affine_transform():
    """Map LPS mm to LPS mm with rotation, shear, scaling and translation."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.03, 0.12, -0.04, -0.1, 0.97, 0.06, 0.05, -0.03, 1.05])
    transform.SetCenter([3.0, -4.0, 5.0])
    transform.SetTranslation([2.5, -1.5, 3.0])
    return transform


def _map_ras(transform, points):
    """Apply an ITK transform to RAS points, one by one."""
    flip = np.array([-1, -1, 1])
    mapped = [transform.TransformPoint((point * flip).tolist()) for point in points]
    return np.array(mapped) * flip


@pytest.mark.parametrize("fixed", ["RAS", "LAS", "LPS", "PSR"])
@pytest.mark.parametrize("moving", ["RAS", "LAS", "LPS", "PSR"])
def test_the_same_voxels_in_another_order_are_resampled_to_equality(
    make_grid, save_phantom, fixed, moving
):
    fixed_volume = read_volume(save_phantom(make_grid(fixed), "fixed.nii"))
    moving_volume = read_volume(save_phantom(make_grid(moving), "moving.nii"))
    # The grids as stored, so that it is the mapping that turns one into the other.
    mapping = Mapping(fixed_volume.stored_grid, moving_volume.stored_grid)
    resampled = mapping.resample(moving_volume.to_stored(moving_volume.data))
    expected = fixed_volume.to_stored(fixed_volume.data)
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=1e-4)  # intensity
    assert mapping.inside().all()


def test_the_same_anatomy_on_other_grids_is_resampled_to_equality(fixed_path, moving_path):
    fixed, moving = read_volume(fixed_path), read_volume(moving_path)
    mapping = Mapping(fixed.grid, moving.grid)
    between = _between_voxels(_world_points(fixed.grid), moving.grid)
    assert between.mean() > 0.6
    difference = np.abs(mapping.resample(moving.data) - fixed.data)
    assert difference[between].max() < 0.01 * INTENSITY_RANGE


def test_a_translation_in_mm_is_recovered_from_the_initial_transform(fixed_grid, moving_grid):
    initial = sitk.TranslationTransform(3, [3.0, -5.0, 7.0])
    displacement = Mapping(fixed_grid, moving_grid, initial).displacement_mm()
    assert displacement.shape == (*fixed_grid.shape, 3)
    assert displacement.dtype == np.float32
    expected = np.broadcast_to([-3.0, 5.0, 7.0], displacement.shape)
    np.testing.assert_allclose(displacement, expected, rtol=0, atol=1e-5)  # mm


def test_a_translation_in_mm_is_recovered_from_the_flow(
    fixed_grid, moving_grid, moving_path, anatomy
):
    translation = np.array([3.0, -5.0, 7.0])
    step_vox = np.linalg.solve(fixed_grid.affine[:3, :3], translation)
    flow = np.broadcast_to(step_vox[:, None, None, None], (3, *fixed_grid.shape))
    moving = read_volume(moving_path)
    mapping = Mapping(fixed_grid, moving.grid, flow_vox=flow.astype(np.float32))
    displacement = mapping.displacement_mm()
    expected = np.broadcast_to(translation, displacement.shape)
    np.testing.assert_allclose(displacement, expected, rtol=0, atol=1e-5)  # mm
    # The pull-back reads the moving anatomy at x + d(x).
    points = _world_points(fixed_grid) + translation
    between = _between_voxels(points, moving.grid)
    assert between.mean() > 0.5
    difference = np.abs(mapping.resample(moving.data) - anatomy(points))
    assert difference[between].max() < 0.01 * INTENSITY_RANGE


def test_the_flow_comes_before_the_initial_transform(fixed_grid, moving_grid):
    flow, initial = _smooth_flow(fixed_grid), _affine_transform()
    displacement = Mapping(fixed_grid, moving_grid, initial, flow).displacement_mm()
    some = np.random.default_rng(0).integers(0, fixed_grid.shape, size=(50, 3))
    steps = np.array([flow[:, i, j, k] for i, j, k in some])
    start = fixed_grid.world_from_voxel(some)
    end = _map_ras(initial, fixed_grid.world_from_voxel(some + steps))
    found = np.array([displacement[i, j, k] for i, j, k in some])
    np.testing.assert_allclose(found, end - start, rtol=0, atol=1e-4)  # mm
    other_order = _map_ras(initial, start) + steps @ fixed_grid.affine[:3, :3].T
    assert np.abs(found - other_order).max() > 0.1  # mm: the orders can be told apart


def test_simpleitk_agrees_when_it_reads_the_files_itself(fixed_path, moving_path, tmp_path):
    fixed, moving = read_volume(fixed_path), read_volume(moving_path)
    mapping = Mapping(fixed.grid, moving.grid, _affine_transform(), _smooth_flow(fixed.grid))
    write_displacement(tmp_path / "displacement.nii.gz", mapping.displacement_mm(), fixed)

    field = sitk.ReadImage(tmp_path / "displacement.nii.gz", sitk.sitkVectorFloat64)
    by_simpleitk = sitk.Resample(
        sitk.ReadImage(moving_path),
        sitk.ReadImage(fixed_path),
        sitk.DisplacementFieldTransform(field),
    )

    ours = fixed.to_stored(mapping.resample(moving.data))
    inside = fixed.to_stored(mapping.inside())
    assert inside.mean() > 0.5
    difference = np.abs(sitk.GetArrayFromImage(by_simpleitk).transpose(2, 1, 0) - ours)
    # Only the rounding of files and fields to float32 is between the two.
    assert difference[inside].max() < 1e-4 * INTENSITY_RANGE
    assert difference[~inside].max(initial=0) == 0


def test_a_written_displacement_is_read_back_as_initial_transform(fixed_path, tmp_path):
    fixed = read_volume(fixed_path)
    displacement = Mapping(fixed.grid, fixed.grid, _affine_transform()).displacement_mm()
    write_displacement(tmp_path / "field.nii.gz", displacement, fixed)
    initial = read_initial_transform(tmp_path / "field.nii.gz")
    again = Mapping(fixed.grid, fixed.grid, initial).displacement_mm()
    interior = (slice(1, -1),) * 3  # rounding may put the outermost voxels out of the field
    np.testing.assert_allclose(again[interior], displacement[interior], rtol=0, atol=1e-4)  # mm


def test_a_sheared_moving_grid_is_resampled(sheared_grid, save_phantom, fixed_grid, anatomy):
    moving = read_volume(save_phantom(sheared_grid))
    mapping = Mapping(fixed_grid, moving.grid)
    points = _world_points(fixed_grid)
    between = _between_voxels(points, moving.grid)
    assert between.mean() > 0.5
    difference = np.abs(mapping.resample(moving.data) - anatomy(points))
    assert difference[between].max() < 0.01 * INTENSITY_RANGE


def test_inside_ends_half_a_voxel_beyond_the_last_one(make_grid):
    grid = make_grid("RAS")
    ones = np.ones(grid.shape, np.float32)
    for step_vox, lost in [(0.4, 0), (0.6, 1), (3.4, 3), (-2.6, 3), (100.0, grid.shape[1])]:
        flow = np.zeros((3, *grid.shape), np.float32)
        flow[1] = step_vox
        mapping = Mapping(grid, grid, flow_vox=flow)
        expected = np.ones(grid.shape, bool)
        expected[:, (slice(grid.shape[1] - lost, None) if step_vox > 0 else slice(lost))] = False
        np.testing.assert_array_equal(mapping.inside(), expected)
        np.testing.assert_allclose(mapping.resample(ones), expected, rtol=0, atol=1e-6)


def test_a_flow_on_a_coarser_grid_moves_what_it_moves_in_the_world(
    fixed_grid, moving_path, anatomy
):
    # Affine in the world, so that linear interpolation between coarse voxels is exact.
    matrix, shift = np.array([[0.05, 0.02, 0], [0, -0.04, 0.03], [0.01, 0, 0.06]]), (3, -2, 1)
    into = np.diag([3.0, 2.0, 4.0, 1.0])
    into[:3, 3] = [-2.0, -1.5, -3.0]  # it begins before the fixed grid, and ends behind it
    coarse = ImageGrid((22, 28, 14), fixed_grid.affine @ into)
    steps = _world_points(coarse) @ matrix.T + shift
    flow = np.linalg.solve(coarse.affine[:3, :3], steps[..., None])[..., 0].transpose(3, 0, 1, 2)
    initial, moving = _affine_transform(), read_volume(moving_path)
    mapping = Mapping(fixed_grid, moving.grid, initial, flow.astype(np.float32), coarse)
    some = np.random.default_rng(0).integers(0, fixed_grid.shape, size=(50, 3))
    start = fixed_grid.world_from_voxel(some)
    end = _map_ras(initial, start + start @ matrix.T + shift)
    found = mapping.displacement_mm()[tuple(some.T)]
    np.testing.assert_allclose(found, end - start, rtol=0, atol=1e-4)  # mm
    warped = mapping.resample(moving.data)[tuple(some.T)]
    between = _between_voxels(end, moving.grid)
    assert between.mean() > 0.4
    assert np.abs(warped - anatomy(end))[between].max() < 0.01 * INTENSITY_RANGE


def test_slabs_change_nothing(fixed_grid, moving_grid, monkeypatch):
    data = np.random.default_rng(0).normal(size=moving_grid.shape).astype(np.float32)
    for initial, flow in [(_affine_transform(), None), (None, _smooth_flow(fixed_grid))]:
        mapping = Mapping(fixed_grid, moving_grid, initial, flow)
        whole = mapping.resample(data), mapping.displacement_mm()
        determinant = jacobian_determinant(whole[1], fixed_grid)
        with monkeypatch.context() as few:
            few.setattr("rwcnet_runtime.geometry.SLAB_VOXELS", 5000)
            parts = mapping.resample(data), mapping.displacement_mm()
            np.testing.assert_array_equal(jacobian_determinant(whole[1], fixed_grid), determinant)
        for found, expected in zip(parts, whole, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_arrays_off_their_grid_are_refused(make_grid):
    fixed, moving = make_grid("RAS"), make_grid("oblique")
    with pytest.raises(ValueError, match=r"flow_vox has shape .* wanted \(3, 36, 32, 28\)"):
        Mapping(fixed, moving, flow_vox=np.zeros((3, *moving.shape), np.float32))
    with pytest.raises(ValueError, match=r"data has shape .* wanted \(30, 40, 26\)"):
        Mapping(fixed, moving).resample(np.zeros(fixed.shape, np.float32))


@pytest.mark.parametrize("name", ["initial.tfm", "initial.txt", "initial.mat", "initial.h5"])
def test_itk_transform_files_are_read(tmp_path, name, make_grid):
    transform = _affine_transform()
    if name.endswith(".h5"):  # the one format here that holds several
        transform = sitk.CompositeTransform([transform, sitk.Euler3DTransform((0, 0, 0), 0.1)])
    sitk.WriteTransform(transform, tmp_path / name)
    grid = make_grid("oblique")
    displacement = Mapping(grid, grid, read_initial_transform(tmp_path / name)).displacement_mm()
    start = grid.world_from_voxel([[3, 5, 7]])
    expected = _map_ras(transform, start) - start
    np.testing.assert_allclose(displacement[3, 5, 7], expected[0], rtol=0, atol=1e-4)  # mm


def test_files_that_are_no_transform_are_refused(tmp_path):
    (tmp_path / "text.tfm").write_text("no transform at all\n")
    (tmp_path / "empty.mat").write_bytes(b"")
    (tmp_path / "text.h5").write_text("no transform at all\n")
    (tmp_path / "text.nii.gz").write_text("no image at all\n")
    for name, shape in {"scalar.nii": (4, 5, 6), "series.nii": (4, 5, 6, 3)}.items():
        nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / name)
    for path in [path for path in tmp_path.iterdir() if path.is_file()]:
        with pytest.raises(
            InputError, match=f"{path} (cannot be read as a transform|is not a NIfTI)"
        ):
            read_initial_transform(path)


def test_a_missing_transform_is_refused(tmp_path):
    for path in (tmp_path / "gone.tfm", tmp_path):
        with pytest.raises(InputError, match=f"{path} is not a file"):
            read_initial_transform(path)


def test_a_transform_of_the_plane_is_refused(tmp_path):
    path = tmp_path / "plane.tfm"
    sitk.WriteTransform(sitk.Euler2DTransform(), path)
    with pytest.raises(InputError, match=f"{path} holds a 2-D transform"):
        read_initial_transform(path)
