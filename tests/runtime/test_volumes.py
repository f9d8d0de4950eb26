import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.volumes import read_volume, write_displacement, write_volume


@pytest.fixture
def volume(make_grid, save_phantom):
    return read_volume(save_phantom(make_grid("PSR")))


def _save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_reading_brings_every_orientation_to_the_same_anatomy(fixed_path, anatomy):
    volume = read_volume(fixed_path)
    points = volume.grid.world_from_voxel(np.moveaxis(np.indices(volume.grid.shape), 0, -1))
    np.testing.assert_allclose(volume.data, anatomy(points), rtol=0, atol=1e-4)  # of about 120
    assert nib.aff2axcodes(volume.grid.affine) == ("R", "A", "S")
    assert volume.data.shape == volume.grid.shape
    assert volume.data.flags.c_contiguous
    assert volume.data.dtype == np.float32


def test_to_stored_undoes_the_reorientation(fixed_path, fixed_grid):
    volume = read_volume(fixed_path)
    stored = nib.load(fixed_path).get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(volume.to_stored(volume.data), stored)
    trailing = np.stack([volume.data, -volume.data], axis=-1)
    np.testing.assert_array_equal(volume.to_stored(trailing), np.stack([stored, -stored], -1))
    np.testing.assert_array_equal(volume.stored_grid.affine, fixed_grid.affine)
    assert volume.stored_grid.shape == fixed_grid.shape


def test_a_written_volume_lies_where_the_original_does(fixed_path, tmp_path):
    volume = read_volume(fixed_path)
    path = tmp_path / "copy.nii"
    write_volume(path, volume.data, volume)
    original, copy = nib.load(fixed_path), nib.load(path)
    np.testing.assert_array_equal(copy.get_fdata(), original.get_fdata())
    np.testing.assert_array_equal(copy.get_sform(), original.affine)
    # mm; a quaternion in float32 is less exact than a matrix
    np.testing.assert_allclose(copy.get_qform(), original.affine, rtol=0, atol=1e-4)
    assert (int(copy.header["sform_code"]), int(copy.header["qform_code"])) == (1, 1)
    assert copy.get_data_dtype() == np.float32
    assert copy.header.get_xyzt_units()[0] == "mm"
    # Another reader agrees about where a voxel is, in its LPS world.
    point = sitk.ReadImage(path).TransformIndexToPhysicalPoint((3, 5, 7))
    expected = volume.stored_grid.world_from_voxel([3, 5, 7]) * (-1, -1, 1)
    np.testing.assert_allclose(point, expected, rtol=0, atol=1e-4)  # mm


def test_a_sheared_volume_is_read_and_written_by_its_sform(sheared_grid, save_phantom, anatomy):
    volume = read_volume(save_phantom(sheared_grid))
    points = volume.grid.world_from_voxel(np.moveaxis(np.indices(volume.grid.shape), 0, -1))
    np.testing.assert_allclose(volume.data, anatomy(points), rtol=0, atol=1e-4)  # of about 120
    path = volume.path.with_name("copy.nii.gz")
    write_volume(path, volume.data, volume)
    copy = nib.load(path)
    np.testing.assert_array_equal(copy.affine, sheared_grid.affine)
    assert (int(copy.header["sform_code"]), int(copy.header["qform_code"])) == (1, 0)


def test_a_displacement_file_follows_the_conventions_of_itk(volume, tmp_path):
    displacement = np.zeros((*volume.grid.shape, 3), np.float32)
    displacement[:] = (1, 2, 3)
    displacement[0, 1, 2] = (4, 5, 6)
    path = tmp_path / "displacement.nii.gz"
    write_displacement(path, displacement, volume)
    image = nib.load(path)
    assert int(image.header["intent_code"]) == 1007
    assert image.shape == (*volume.stored_grid.shape, 1, 3)
    # Stored axes run to the back (P), the head (S) and the right (R) of RAS index (0, 1, 2).
    components = np.asarray(image.dataobj)[volume.grid.shape[1] - 2, 2, 0, 0]
    np.testing.assert_array_equal(components, (-4, -5, 6))
    np.testing.assert_array_equal(np.asarray(image.dataobj)[0, 0, 0, 0], (-1, -2, 3))


def test_trailing_axes_of_length_one_are_dropped(tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5, 1, 1)
    volume = read_volume(_save(tmp_path / "volume.nii", array))
    np.testing.assert_array_equal(volume.data, array[..., 0, 0])


def test_nifti_2_is_read(tmp_path):
    array = np.arange(60, dtype=np.float64).reshape(3, 4, 5)
    nib.save(nib.Nifti2Image(array, np.eye(4)), tmp_path / "volume.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "volume.nii").data, array)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 5), np.float32), r"shape \(4, 5\)"),
        (np.zeros((0, 4, 5), np.float32), r"shape \(0, 4, 5\)"),
        (np.zeros((4, 5, 1), np.float32), r"shape \(4, 5, 1\)"),
        (np.zeros((4, 5, 6, 2), np.float32), r"shape \(4, 5, 6, 2\)"),
        (np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "'R'"),
        (np.zeros((4, 5, 6), np.complex64), "complex64"),
        (np.where(np.arange(60).reshape(3, 4, 5) < 2, np.nan, 1.0), "2 NaN or infinite"),
        (np.where(np.arange(60).reshape(3, 4, 5) < 3, -np.inf, 1.0), "3 NaN or infinite"),
        (np.where(np.arange(60).reshape(3, 4, 5) < 4, 1e300, 1.0), "4 NaN or infinite"),
        (np.full((3, 4, 5), 7.0), "value 7 in every voxel"),
    ],
)
def test_an_unusable_image_is_refused(tmp_path, array, found):
    path = _save(tmp_path / "image.nii", array)
    with pytest.raises(InputError, match=rf"{path} .*{found}"):
        read_volume(path)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path, value):
    image = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), None)
    image.header.set_sform(np.diag([1, 1, value, 1]), code=1)
    nib.save(image, tmp_path / "flat.nii")
    with pytest.raises(InputError, match=rf"{tmp_path}/flat.nii .*cannot be inverted"):
        read_volume(tmp_path / "flat.nii")


def test_small_voxels_are_not_taken_for_flat_ones(tmp_path):
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    path = _save(tmp_path / "small.nii", array, np.diag([0.002, 0.002, 0.002, 1]))
    np.testing.assert_array_equal(read_volume(path).data, array)


@pytest.mark.parametrize(
    ("name", "found"), [("gone.nii", "does not exist"), (".", "is a folder without DICOM images")]
)
def test_a_path_without_a_file_is_refused(tmp_path, name, found):
    with pytest.raises(InputError, match=rf"{tmp_path / name} {found}"):
        read_volume(tmp_path / name)


def test_files_that_are_not_nifti_are_refused(tmp_path, volume):
    whole = volume.path.read_bytes()
    plain = gzip.decompress(whole)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    uncompressed = bytearray(gzip.compress(plain, 0))  # blocks of 65535 bytes, 5 before each
    uncompressed[10 + 5 + 65535] = 0x07  # the second block is of no known type
    unknown_type = bytearray(plain)
    unknown_type[70:72] = (9999).to_bytes(2, "little")
    contents = {
        "text.nii": b"no image at all\n" * 100,
        "empty.nii": b"",
        "text.nii.gz": b"no image at all\n" * 100,
        "unzipped.nii.gz": plain,
        "cut.nii.gz": whole[: len(whole) // 2],
        "cut_header.nii.gz": whole[:40],
        "flipped.nii.gz": bytes(flipped),
        "block.nii.gz": bytes(uncompressed),
        "unknown_type.nii": bytes(unknown_type),
        "cut.nii": plain[: len(plain) // 2],
        "cut_header.nii": plain[:200],
        "table.csv": b"1,2,3\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{tmp_path / name} is (not a NIfTI file|cut off)"):
            read_volume(tmp_path / name)


def test_another_format_that_nibabel_knows_is_refused(tmp_path):
    nib.save(nib.MGHImage(np.ones((3, 4, 5), np.float32), np.eye(4)), tmp_path / "image.mgz")
    with pytest.raises(InputError, match=rf"{tmp_path}/image.mgz is not a NIfTI file"):
        read_volume(tmp_path / "image.mgz")


@pytest.mark.parametrize(
    ("name", "found"),
    [("out.mhd", "does not end in .nii"), ("gone/out.nii", "No such file or directory")],
)
def test_an_output_path_that_cannot_be_written_is_refused(volume, tmp_path, name, found):
    with pytest.raises(InputError, match=rf"{tmp_path / name} .*{found}"):
        write_volume(tmp_path / name, volume.data, volume)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(volume, monkeypatch):
    before = volume.path.read_bytes()

    def save_half(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", save_half)
    with pytest.raises(InputError, match=rf"{volume.path} .*No space left on device"):
        write_volume(volume.path, volume.data, volume)
    assert volume.path.read_bytes() == before
    assert list(volume.path.parent.iterdir()) == [volume.path]


def test_two_places_in_one_header_are_refused(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).random((5, 6, 7), np.float32), np.eye(4))
    elsewhere = np.eye(4)
    elsewhere[0, 3] = 10
    image.set_sform(np.eye(4), code=2)
    image.set_qform(elsewhere, code=1)
    nib.save(image, tmp_path / "two.nii")
    with pytest.raises(InputError, match="differ by 10 mm"):
        read_volume(tmp_path / "two.nii")


def test_a_header_that_says_no_place_is_refused(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).random((5, 6, 7), np.float32), None)
    nib.save(image, tmp_path / "nowhere.nii")
    with pytest.raises(InputError, match="does not say where"):
        read_volume(tmp_path / "nowhere.nii")
