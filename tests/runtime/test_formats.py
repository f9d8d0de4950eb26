import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime import register
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import output_suffix
from rwcnet_runtime.volumes import read_labels, read_volume, write_volume

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


@pytest.mark.parametrize("suffix", [".NII", ".NII.GZ", ".Nii.gz", ".MHA", ".NRRD"])
def test_suffixes_in_upper_case_are_those_in_lower_case(tmp_path, fixed_path, suffix):
    volume = read_volume(fixed_path)
    write_volume(tmp_path / f"A{suffix}", volume.data, volume)
    assert [file.name for file in tmp_path.iterdir() if file.name[0] == "A"] == [f"A{suffix}"]
    np.testing.assert_array_equal(read_volume(tmp_path / f"A{suffix}").data, volume.data)


@pytest.mark.parametrize(("of", "names"), [("A.hdr", ("A.HDR", "A.IMG")), ("B.mhd", ("B.MHD",))])
def test_files_in_two_with_suffixes_in_upper_case_are_read(tmp_path, fixed_path, of, names):
    if of == "A.hdr":
        nib.save(
            nib.Nifti1Pair(
                nib.load(fixed_path).get_fdata(dtype=np.float32), nib.load(fixed_path).affine
            ),
            tmp_path / of,
        )
    else:
        sitk.WriteImage(sitk.ReadImage(fixed_path), tmp_path / of)
    for name in names:
        (tmp_path / name[0]).with_suffix(name[1:].lower()).rename(tmp_path / name)
    for name in names:
        np.testing.assert_array_equal(
            read_volume(tmp_path / name).data, read_volume(fixed_path).data
        )


def test_results_follow_suffixes_in_upper_case(tmp_path):
    for name, suffix in {
        "a.MHD": ".mha",
        "a.NRRD": ".nrrd",
        "a.NII": ".nii",
        "a.IMG": ".nii.gz",
    }.items():
        assert output_suffix(tmp_path / name) == suffix


def test_one_file_of_dicom_is_said_to_be_one(tmp_path):
    for name in ("a.DCM", "a.Ima"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match="one file of DICOM"):
            read_volume(tmp_path / name)
