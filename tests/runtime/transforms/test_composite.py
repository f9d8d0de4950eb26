import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.transforms import write_composite
from rwcnet_runtime.volumes import read_volume

INTENSITY_RANGE = 120  # of the phantoms, about


def _map_ras(transform, points):
    flip = np.array([-1, -1, 1])
    return np.array([transform.TransformPoint((point * flip).tolist()) for point in points]) * flip


def _some_voxels(shape):
    return np.random.default_rng(0).integers(1, np.array(shape) - 1, size=(50, 3))


def _check_points(transform, pair):
    voxels = _some_voxels(pair.fixed.grid.shape)
    found = _map_ras(transform, pair.fixed.grid.world_from_voxel(voxels))
    np.testing.assert_allclose(found, pair.moved()[tuple(voxels.T)], rtol=0, atol=1e-3)  # mm


def test_itk_maps_points_as_the_displacement_does(pair, tmp_path):
    path = tmp_path / "composite.h5"
    write_composite(path, pair.displacement_mm, pair.fixed, pair.initial)
    _check_points(sitk.ReadTransform(path), pair)


def test_itk_resamples_the_anatomy(pair, tmp_path, anatomy):
    path = tmp_path / "composite.h5"
    write_composite(path, pair.displacement_mm, pair.fixed, pair.initial)
    warped = sitk.Resample(
        sitk.ReadImage(pair.moving.path), sitk.ReadImage(pair.fixed.path), sitk.ReadTransform(path)
    )
    found = pair.fixed.from_stored(sitk.GetArrayFromImage(warped).transpose(2, 1, 0))
    inside = pair.inside()
    assert inside.mean() > 0.5
    difference = np.abs(found - anatomy(pair.moved()))[inside]
    assert difference.max() < 0.01 * INTENSITY_RANGE


def test_the_field_comes_first_and_beyond_it_the_start_alone(make_pair, tmp_path):
    pair = make_pair()
    path = tmp_path / "composite.h5"
    write_composite(path, pair.displacement_mm, pair.fixed, pair.initial)
    composite = sitk.CompositeTransform(sitk.ReadTransform(path))
    names = [composite.GetNthTransform(n).GetName() for n in range(2)]
    assert names == ["AffineTransform", "DisplacementFieldTransform"]  # the last is applied first
    far = np.array([[300.0, -200.0, 100.0]])
    expected = _map_ras(pair.initial, far)
    np.testing.assert_allclose(_map_ras(composite, far), expected, rtol=0, atol=1e-3)  # mm


@pytest.mark.parametrize("kind", ["none", "rigid parts", "field"])
def test_other_starts(make_pair, tmp_path, kind, make_grid):
    rigid = sitk.CompositeTransform(
        [sitk.Euler3DTransform((5, 0, 0), 0.2), sitk.TranslationTransform(3, (1, -2, 3))]
    )
    size = sitk.Image((60, 60, 60), sitk.sitkVectorFloat64, 3)
    size.SetOrigin((-90, -90, -90))
    size.SetSpacing((3, 3, 3))
    field = sitk.DisplacementFieldTransform(sitk.Add(size, 2.0))
    initial = {"none": sitk.Transform(3, sitk.sitkIdentity), "rigid parts": rigid, "field": field}
    pair = make_pair(initial=initial[kind])
    path = tmp_path / "composite.h5"
    write_composite(
        path, pair.displacement_mm, pair.fixed, None if kind == "none" else initial[kind]
    )
    composite = sitk.CompositeTransform(sitk.ReadTransform(path))
    assert composite.GetNumberOfTransforms() == (2 if kind == "rigid parts" else 1)
    _check_points(composite, pair)


def test_a_sheared_grid_is_kept(sheared_grid, save_phantom, make_grid, tmp_path):
    fixed = read_volume(save_phantom(sheared_grid))
    i, j, k = np.indices(fixed.grid.shape) / 9.0
    flow = np.stack([np.sin(j), np.cos(k), np.sin(i)]).astype(np.float32)
    displacement = Mapping(fixed.grid, make_grid("RAS"), flow_vox=flow).displacement_mm()
    write_composite(tmp_path / "composite.h5", displacement, fixed)
    read = read_initial_transform(tmp_path / "composite.h5")
    again = Mapping(fixed.grid, ImageGrid((4, 4, 4), np.eye(4)), read).displacement_mm()
    interior = (slice(1, -1),) * 3  # rounding may put the outermost voxels out of the field
    np.testing.assert_allclose(again[interior], displacement[interior], rtol=0, atol=1e-3)  # mm


def test_a_place_that_cannot_be_written_is_said(make_pair, tmp_path):
    pair = make_pair()
    with pytest.raises(InputError, match=r"composite\.mat does not end in \.h5; choose"):
        write_composite(tmp_path / "composite.mat", pair.displacement_mm, pair.fixed)
    gone = tmp_path / "gone" / "composite.h5"
    with pytest.raises(InputError, match=rf"{gone} could not be written \(ITK cannot write there"):
        write_composite(gone, pair.displacement_mm, pair.fixed)
