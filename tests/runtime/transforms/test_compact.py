import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.transforms import write_compact
from rwcnet_runtime.volumes import read_volume, write_displacement


def _error_by_itk(path, pair):
    grid = pair.fixed.grid
    read = Mapping(grid, grid, read_initial_transform(path)).displacement_mm()
    return np.linalg.norm(read - pair.displacement_mm, axis=-1)


def test_itk_reads_it_with_the_error_that_is_stated(pair, tmp_path):
    path = tmp_path / "compact.nii.gz"
    stated = write_compact(path, pair.displacement_mm, pair.fixed)
    found = _error_by_itk(path, pair)
    expected = [found.mean(), np.percentile(found, 99), found.max()]
    assert list(stated) == ["mean_mm", "p99_mm", "max_mm"]
    np.testing.assert_allclose(list(stated.values()), expected, rtol=0, atol=1e-3)  # mm
    assert stated["mean_mm"] < 0.15  # mm, of a field of some 5 mm that waves every 57 voxels


def test_it_has_an_eighth_of_the_voxels_and_a_tenth_of_the_bytes(make_pair, tmp_path):
    pair = make_pair()
    path = tmp_path / "compact.nii.gz"
    stated = write_compact(path, pair.displacement_mm, pair.fixed)
    image = nib.load(path)
    assert image.shape == (*(n // 2 + 1 for n in pair.fixed.stored_grid.shape), 1, 3)
    assert image.header.get_intent()[0] == "vector"
    description = bytes(image.header["descrip"]).rstrip(b"\0").decode()
    assert description.endswith(f"max {stated['max_mm']:.4f}")
    write_displacement(tmp_path / "full.nii.gz", pair.displacement_mm, pair.fixed)
    assert path.stat().st_size < 0.1 * (tmp_path / "full.nii.gz").stat().st_size


def test_voxels_that_are_kept_are_good_to_the_rounding(make_pair, tmp_path):
    pair = make_pair()
    path = tmp_path / "compact.nii.gz"
    write_compact(path, pair.displacement_mm, pair.fixed)
    kept = pair.fixed.to_stored(pair.displacement_mm)[::2, ::2, ::2]
    read = nib.load(path).get_fdata()[..., 0, :] * (-1, -1, 1)
    within = tuple(map(slice, kept.shape[:3]))
    half_a_step = pair.fixed.grid.spacing.min() / 256
    np.testing.assert_allclose(read[within], kept, rtol=0, atol=half_a_step)  # mm


@pytest.mark.parametrize("shape", [(9, 10, 2), (3, 4, 5)])
def test_a_linear_field_survives_on_odd_and_even_axes(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    nib.save(nib.Nifti1Image(array, np.diag([2, 3, 4, 1])), tmp_path / "fixed.nii")
    fixed = read_volume(tmp_path / "fixed.nii")
    x = np.moveaxis(np.indices(shape), 0, -1).astype(np.float32)
    displacement = x @ np.array([[0.3, -0.1, 0.2], [0.1, 0.2, 0], [-0.3, 0.4, 0.5]], np.float32)
    path = tmp_path / "compact.nii.gz"
    stated = write_compact(path, displacement, fixed)
    assert stated["max_mm"] < 0.02  # mm, of rounding in three components
    corner = fixed.grid.world_from_voxel(np.array(shape) - 1) * (-1, -1, 1)
    moved = read_initial_transform(path).TransformPoint(corner.tolist())
    expected = corner + displacement[-1, -1, -1] * (-1, -1, 1)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=0.01)  # mm


def test_no_motion_is_kept(make_pair, tmp_path):
    pair = make_pair()
    path = tmp_path / "compact.nii.gz"
    stated = write_compact(path, np.zeros_like(pair.displacement_mm), pair.fixed)
    assert set(stated.values()) == {0.0}
    assert sitk.GetArrayFromImage(sitk.ReadImage(path)).max() == 0
