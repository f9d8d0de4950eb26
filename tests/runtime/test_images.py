"""Images in memory are what their files are, and results come back as they came."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime import InputError, Registrar
from rwcnet_runtime.images import as_labels, as_volume, displacement_like, image_like
from rwcnet_runtime.volumes import read_displacement, read_volume, write_displacement

GRIDS = ["RAS", "PSR", "oblique"]


def kinds(path):
    """Return the image of a file in every kind."""
    image = nib.load(path)
    return {
        "nibabel": image,
        "simpleitk": sitk.ReadImage(path),
        "array": (np.asarray(image.dataobj), image.affine),
        "path": str(path),
    }


@pytest.mark.parametrize("orientation", GRIDS)
def test_every_kind_is_read_as_its_file_is(save_phantom, make_grid, orientation):
    path = save_phantom(make_grid(orientation))
    expected = read_volume(path)
    for kind, image in kinds(path).items():
        found = as_volume(image, "fixed")
        np.testing.assert_array_equal(found.data, expected.data)
        # mm: SimpleITK keeps a quaternion in place of the matrix
        np.testing.assert_allclose(found.grid.affine, expected.grid.affine, atol=2e-5)
        assert found.path.name == ("phantom.nii.gz" if kind == "path" else "fixed")
    assert as_volume(expected, "fixed") is expected


@pytest.mark.parametrize("orientation", GRIDS)
def test_images_come_back_in_the_kind_and_axes_that_were_given(
    save_phantom, make_grid, orientation
):
    path = save_phantom(make_grid(orientation))
    volume, given = read_volume(path), kinds(path)
    back = {kind: image_like(image, volume.data, volume) for kind, image in given.items()}
    stored = given["array"][0]
    for kind in ("nibabel", "path"):
        np.testing.assert_array_equal(np.asarray(back[kind].dataobj), stored)
        np.testing.assert_allclose(back[kind].affine, given["nibabel"].affine, atol=1e-5)  # mm
    np.testing.assert_array_equal(back["array"][0], stored)
    np.testing.assert_array_equal(back["array"][1], given["array"][1])
    found, expected = back["simpleitk"], given["simpleitk"]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    for place in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(
            getattr(found, place)(), getattr(expected, place)(), atol=2e-5
        )  # mm


@pytest.mark.parametrize("orientation", GRIDS)
def test_displacements_come_back_in_the_convention_of_their_kind(
    save_phantom, make_grid, tmp_path, orientation
):
    path = save_phantom(make_grid(orientation))
    volume, given = read_volume(path), kinds(path)
    field = np.random.default_rng(0).normal(0, 3, (*volume.grid.shape, 3)).astype(np.float32)
    write_displacement(tmp_path / "field.nii.gz", field, volume)
    nib.save(displacement_like(given["nibabel"], field, volume), tmp_path / "nibabel.nii.gz")
    np.testing.assert_array_equal(read_displacement(tmp_path / "nibabel.nii.gz", volume), field)
    array, _ = displacement_like(given["array"], field, volume)
    np.testing.assert_array_equal(array, volume.to_stored(field))
    found = displacement_like(given["simpleitk"], field, volume)
    expected = sitk.ReadImage(tmp_path / "field.nii.gz", sitk.sitkVectorFloat64)
    where = [int(n) // 3 for n in expected.GetSize()]
    point = expected.TransformIndexToPhysicalPoint(where)
    moved = [
        sitk.DisplacementFieldTransform(sitk.Image(image)).TransformPoint(point)
        for image in (found, expected)
    ]
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-4)  # mm


def test_masks_may_be_bool():
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = True
    found = as_labels((mask, np.diag([-1.0, 1, 1, 1])), "mask")
    assert np.argwhere(found.data).tolist() == [[2, 2, 3]]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 4)), "moving is of the type ndarray: give a path"),
        ((np.zeros((4, 4)), np.eye(4)), r"moving has shape \(4, 4\) where one 3-D volume"),
        ((np.zeros((4, 4, 4)), np.eye(3)), r"moving has an affine of shape \(3, 3\)"),
        ((np.zeros((4, 4, 4)), np.zeros((4, 4))), "moving has a voxel-to-world matrix that"),
        ((np.zeros((4, 4, 4), complex), np.eye(4)), "moving holds complex128 voxels"),
        ((np.full((4, 4, 4), np.nan), np.eye(4)), "moving holds 64 NaN"),
        (sitk.Image((4, 4, 4), sitk.sitkVectorFloat32), "moving holds vector of 32-bit float"),
        (sitk.Image((4, 4, 4), sitk.sitkFloat32), "moving holds the value 0 in every voxel"),
        (nib.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), r"moving has shape \(4, 4, 4, 2\)"),
    ],
)
def test_what_is_no_image_is_one_sentence(image, says):
    with pytest.raises(InputError, match=says):
        as_volume(image, "moving")


def test_simpleitk_takes_and_gives_sheared_images():
    sheared = np.diag([2.0, 1, 1, 1])
    sheared[0, 1] = 0.4
    volume = as_volume((np.arange(64.0).reshape(4, 4, 4), sheared), "fixed")
    image = image_like(sitk.Image((4, 4, 4), sitk.sitkFloat32), volume.data, volume)
    again = as_volume(image, "fixed")
    np.testing.assert_array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.grid.affine, sheared, atol=1e-9)  # mm


def test_a_pair_in_memory_is_registered_as_its_files_are(save_phantom, make_grid):
    fixed = save_phantom(make_grid("RAS"), "fixed.nii.gz")
    moving = save_phantom(make_grid("PSR"), "moving.nii.gz")
    registrar = Registrar(backend="onnxruntime", refine=2)
    expected = registrar.register(fixed, moving)
    mask = np.ones(nib.load(fixed).shape, bool), nib.load(fixed).affine
    found = registrar.register(nib.load(fixed), nib.load(moving), fixed_mask=mask)
    np.testing.assert_array_equal(found.displacement_mm, expected.displacement_mm)
    sources = [found.report[name] for name in ("fixed", "moving", "fixed_mask", "moving_mask")]
    assert sources == ["nibabel image", "nibabel image", "array", None]
    assert isinstance(found.warped_image(), nib.Nifti1Image)
    itk = registrar.register(sitk.ReadImage(fixed), sitk.ReadImage(moving))
    # mm: SimpleITK keeps a quaternion in place of the matrix
    np.testing.assert_allclose(itk.displacement_mm, expected.displacement_mm, atol=1e-3)
    warped = sitk.Resample(
        sitk.ReadImage(moving),
        itk.warped_image(),
        sitk.DisplacementFieldTransform(itk.displacement_image()),
    )
    a, b = (sitk.GetArrayFromImage(x)[2:-2, 2:-2, 2:-2] for x in (warped, itk.warped_image()))
    assert np.abs(a - b).max() < 0.01 * np.ptp(b)  # as the share of the range
