import locale
import shutil

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.volumes import read_volume

LPS = np.diag([-1, -1, 1])


@pytest.fixture
def write_series(tmp_path):
    """Write slices as DICOM; `positions` are in LPS mm, `directions` the columns of a rotation."""

    def write(name, slices, positions, directions, uid="1.2.826.0.1.1", slope="1"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        # File names say nothing about the order.
        for n, (values, position) in enumerate(zip(slices, positions, strict=True)):
            image = sitk.GetImageFromArray(values[None])
            image.SetSpacing((1.5, 2.0, 3.0))
            tags = {
                "0008|0060": "CT",
                "0020|000d": "1.2.826.0.1",
                "0020|000e": uid,
                "0020|0032": "\\".join(f"{x:.6f}" for x in position),
                "0020|0037": "\\".join(f"{x:.8f}" for x in directions.T[:2].ravel()),
                "0028|1052": "0",
                "0028|1053": slope,
                "0008|0018": f"{uid}.{n + 1}",
            }
            for tag, value in tags.items():
                image.SetMetaData(tag, value)
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(folder / f"{uid[-1]}-{(7 * n) % 11:02}.dcm"))
            writer.Execute(image)
        return folder

    # ITK writes DICOM in the C locale and stays in it, in which text is ASCII for all that follows.
    before = locale.setlocale(locale.LC_ALL)
    yield write
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture
def slices():
    values = np.random.default_rng(0).integers(-1000, 2000, (8, 6, 5)).astype(np.int16)
    return values  # k, j, i


def turned():
    """A rotation about two axes, whose third column is the normal of the slices."""
    return np.array(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.25).GetMatrix()).reshape(3, 3)


def along(step, n=8, start=(-10.0, 20.0, 30.0)):
    return np.array(start) + np.outer(np.arange(n), step)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_series_lies_where_its_slices_say(write_series, slices, sign):
    directions = turned()
    positions = along(sign * 3.0 * directions[:, 2])
    volume = read_volume(write_series("series", slices, positions, directions))
    for k, j, i in ((0, 0, 0), (7, 5, 4), (3, 2, 1)):
        point = positions[k] + directions[:, :2] @ (1.5 * i, 2.0 * j)
        voxel = volume.grid.voxel_from_world(LPS @ point)
        np.testing.assert_allclose(voxel, voxel.round(), rtol=0, atol=1e-3)  # voxels
        assert volume.data[tuple(voxel.round().astype(int))] == slices[k, j, i]


def test_a_tilted_gantry_gives_a_sheared_grid(write_series, slices):
    positions = along((0.0, 1.0, 3.0))
    grid = read_volume(write_series("tilted", slices, positions, np.eye(3))).stored_grid
    np.testing.assert_allclose(grid.affine[:3, 2], (0, -1, 3), rtol=0, atol=1e-4)  # mm


def test_slices_keep_their_own_scale(write_series, slices):
    # As in PET: ITK alone reads the second slice with the type of the first, and cuts it off.
    stored = np.abs(slices[:3]) // 2
    folder = write_series("pet", 2 * stored, along((0, 0, 3.0), 3), np.eye(3), slope="2")
    slope = b"\x28\x00\x53\x10\x02\x00\x00\x00"  # the tag 0028|1053, and two characters to come
    for n, path in enumerate(folder / f"1-{x:02}.dcm" for x in (0, 7, 3)):
        whole = path.read_bytes()
        assert slope + b"2 " in whole
        path.write_bytes(whole.replace(slope + b"2 ", slope + (b"2 ", b".5", b".2")[n]))
    volume = read_volume(folder)
    expected = stored * np.array([2, 0.5, 0.2])[:, None, None]
    np.testing.assert_allclose(volume.to_stored(volume.data).T, expected, rtol=0, atol=1e-3)


def test_missing_and_uneven_slices_are_refused(write_series, slices):
    missing = np.delete(along((0, 0, 3.0)), 4, axis=0)
    folder = write_series("missing", np.delete(slices, 4, axis=0), missing, np.eye(3))
    with pytest.raises(InputError, match=r"missing holds slices between 3 and 6 mm apart"):
        read_volume(folder)
    uneven = along((0, 0, 3.0))
    uneven[5] += (0, 0, 0.5)
    with pytest.raises(InputError, match=r"uneven holds slices between 2.5 and 3.5 mm apart"):
        read_volume(write_series("uneven", slices, uneven, np.eye(3)))


def test_two_volumes_in_one_series_are_refused(write_series, slices):
    twice = np.repeat(along((0, 0, 3.0), 4), 2, axis=0)
    with pytest.raises(InputError, match="several slices at one position"):
        read_volume(write_series("twice", slices, twice, np.eye(3)))


def test_two_series_in_a_folder_are_named(write_series, slices):
    folder = write_series("two", slices[:4], along((0, 0, 3.0), 4), np.eye(3), "1.2.3.4")
    write_series("two", slices[4:], along((0, 0, 3.0), 4), np.eye(3), "1.2.3.5")
    with pytest.raises(InputError, match=r"holds 2 DICOM series \(1\.2\.3\.4, 1\.2\.3\.5\)"):
        read_volume(folder)


def test_what_is_no_slice_of_the_volume_is_refused(write_series, slices):
    folder = write_series("mixed", slices[:4], along((0, 0, 3.0), 4), np.eye(3))
    write_series("other", slices[4:5, :4], along((0, 0, 12.0), 1), np.eye(3))
    shutil.copy(next((folder.parent / "other").iterdir()), folder / "more.dcm")
    with pytest.raises(InputError, match="slices of different sizes, spacings or directions"):
        read_volume(folder)


def test_one_file_of_dicom_is_refused(write_series, slices):
    folder = write_series("one", slices, along((0, 0, 3.0)), np.eye(3))
    with pytest.raises(InputError, match="give the folder of its series"):
        read_volume(next(folder.iterdir()))


def test_a_series_of_one_slice_is_refused(write_series, slices):
    folder = write_series("flat", slices[:1], along((0, 0, 3.0), 1), np.eye(3))
    with pytest.raises(InputError, match=r"shape \(5, 6, 1\)"):
        read_volume(folder)
