import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime import register
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.volumes import read_labels, read_volume

SUFFIXES = (".mha", ".mhd", ".nrrd")


def as_itk(path, suffix):
    """Let ITK write what it reads from a NIfTI file."""
    image = sitk.ReadImage(path)
    other = path.with_name(path.name.removesuffix(".nii.gz") + suffix)
    sitk.WriteImage(image, other)
    return other


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_itk_is_the_same_volume_as_its_nifti(fixed_path, suffix):
    expected, found = read_volume(fixed_path), read_volume(as_itk(fixed_path, suffix))
    np.testing.assert_array_equal(found.data, expected.data)
    for name in ("grid", "stored_grid"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.shape == other.shape
        np.testing.assert_allclose(one.affine, other.affine, rtol=0, atol=1e-4)  # mm
    assert found.data.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_labels_of_any_type_are_integers(tmp_path, make_grid, dtype):
    grid = make_grid("PSR")
    stored = np.random.default_rng(0).integers(0, 250, grid.shape).astype(dtype)
    path = tmp_path / "labels.nii.gz"
    nib.save(nib.Nifti1Image(stored, grid.affine), path)
    for file in (path, as_itk(path, ".mha")):
        labels = read_labels(file)
        assert labels.data.dtype == np.int32
        assert nib.aff2axcodes(labels.grid.affine) == ("R", "A", "S")
        for x in ((0, 1, 2), (5, 6, 7)):
            voxel = labels.grid.voxel_from_world(grid.world_from_voxel(x)).round().astype(int)
            assert labels.data[tuple(voxel)] == stored[x]


def test_a_mask_may_be_the_same_everywhere(tmp_path):
    path = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4)), path)
    assert (read_labels(path).data == 1).all()


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan, np.inf, 3e9])
def test_what_is_no_label_is_refused(tmp_path, value):
    array = np.ones((3, 4, 5))
    array[1, 1, 1] = value
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "labels.nii")
    with pytest.raises(
        InputError, match=re.escape(f"labels.nii holds 1 voxels such as {value:g} ")
    ):
        read_labels(tmp_path / "labels.nii")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize(
    ("array", "vector", "says"),
    [
        (np.zeros((5, 6), np.float32), False, r"shape \(6, 5\)"),
        (np.zeros((1, 5, 6), np.float32), False, r"shape \(6, 5, 1\)"),
        (np.zeros((4, 5, 6, 3), np.float32), True, "vector of 32-bit float"),
        (np.full((4, 5, 6), np.nan, np.float32), False, "120 NaN"),
        (np.ones((4, 5, 6), np.float32), False, "value 1 in every voxel"),
    ],
)
def test_an_unusable_file_of_itk_is_refused(tmp_path, suffix, array, vector, says):
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), path)
    with pytest.raises(InputError, match=f"{path} .*{says}"):
        read_volume(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_of_itk_is_refused(tmp_path, fixed_path, suffix, capfd):
    whole = as_itk(fixed_path, suffix).read_bytes()
    path = tmp_path / f"damaged{suffix}"
    capfd.readouterr()
    for content in (b"", b"no image at all\n" * 100, whole[: len(whole) // 2], whole[:60]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path} cannot be read by ITK"):
            read_volume(path)
    assert capfd.readouterr() == ("", "")  # the sentence is all that is said


def test_images_of_itk_are_registered_like_their_nifti(tmp_path, make_grid, save_phantom):
    fixed = save_phantom(make_grid("LAS"), "fixed.nii.gz")
    moving = save_phantom(make_grid("RAS", centre=(3, 0, 0)), "moving.nii.gz")
    expected = register(fixed, moving)
    found = register(as_itk(fixed, ".mha"), as_itk(moving, ".nrrd"))
    np.testing.assert_allclose(found.warped, expected.warped, rtol=0, atol=1e-2)  # of about 120
    results = found.save(tmp_path / "out")
    assert results[0].name == "warped.mha"  # as the fixed image
    for path in results[1:2]:
        written = nib.load(path)
        np.testing.assert_allclose(written.affine, nib.load(fixed).affine, rtol=0, atol=1e-4)  # mm
